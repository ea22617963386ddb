"""The variants of ResNets are timm's, number by number."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from classy_vision.identify.identify import identify
from classy_vision.models import build_model, load_weights, save_weights
from classy_vision.weights.files import read_tensors
from tests.peers.catalogue import of_resnet, short

# One for each mechanism.
NAMES = [
    *("resnet26d", "resnet26t", "resnet18d", "resnet10t", "resnet50c", "resnet50s", "resnet50_gn"),
    *("resnetaa50", "resnetaa50d", "resnetblur50", "resnetrs50", "ecaresnet26t", "ecaresnetlight"),
    *("seresnext26d_32x4d", "seresnextaa101d_32x8d"),
]
UNSEEN = {"anti_alias", "zero_init_bn_residuals"}
"""What no tensor shows."""


def of_timm(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model of random weights and statistics, and our config for it."""
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7).eval().double()
    for module in theirs.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    config = of_resnet(theirs)
    assert config is not None
    return theirs, {**short(config), "num_classes": 7}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_outputs_and_features(name: str, tmp_path: Any) -> None:
    theirs, config = of_timm(name)
    ours = build_model(config).double().eval()
    load_weights(ours, theirs.state_dict(), layout="timm")
    x = torch.randn(2, 3, 65, 96, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-9)
    stages: dict[str, Tensor] = {}
    for s in range(4):
        getattr(theirs, f"layer{s + 1}").register_forward_hook(
            lambda module, inputs, output, s=s: stages.update({f"block{s}": output})
        )
    theirs(x)
    for block, feature in ours.features(x, list(stages)).items():
        torch.testing.assert_close(feature, stages[block], rtol=0, atol=1e-9)
    save_weights(ours, tmp_path / "theirs.safetensors", layout="timm")
    theirs.load_state_dict(read_tensors(tmp_path / "theirs.safetensors"))


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_found(name: str) -> None:
    theirs, config = of_timm(name)
    found = identify(theirs.state_dict())
    with torch.device("meta"):
        given, wanted = (build_model(one).config.model_dump(exclude=UNSEEN) for one in (found, config))
    assert given == wanted
