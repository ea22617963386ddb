"""EfficientNets and the networks of their blocks give the peers' outputs, and every block's features."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from classy_vision.models import MODELS, build_model
from classy_vision.trunk.loading import load_weights
from classy_vision.trunk.saving import to_layout
from classy_vision.weights.catalogue import names, published
from tests.peers.models import answer, with_weights

FAMILY = "efficientnet"
LARGEST = 100e6
TAGS = [name for name in names() if MODELS[published(name).config["name"]].family == FAMILY]
ROWS = {name.partition(".")[0]: published(name) for name in TAGS if published(name).params <= LARGEST}
# One of each mechanism: kinds of blocks, kernels, squeezes, activations, hidden layers.
QUICK = [
    *("timm/efficientnet_es", "timm/fbnetc_100", "timm/fbnetv3_b", "timm/lcnet_050", "timm/mixnet_s"),
    *("timm/mnasnet_small", "timm/mobilenetv1_100", "timm/mobilenetv2_050", "timm/mobilenetv3_small_050"),
    *("timm/mobilenetv4_conv_small_050", "timm/tf_efficientnetv2_b0", "timm/tf_mixnet_s", "timm/tinynet_e"),
    *("torchvision/mnasnet0_5", "torchvision/mobilenet_v2", "torchvision/mobilenet_v3_small"),
]
CASES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ROWS]


def test_every_quick_case_is_here() -> None:
    assert set(QUICK) <= set(ROWS)


def peer_of(name: str) -> nn.Module:
    source, _, network = name.partition("/")
    classes = {"num_classes": 10}
    made = timm.create_model if source == "timm" else torchvision.models.get_model
    return with_weights(made(network, **classes))


def blocks_of(peer: nn.Module, name: str) -> list[nn.Module]:
    """The blocks in their order, if timm has made the peer."""
    stages: Any = peer.blocks if name.startswith("timm/") else ()
    return [block for stage in stages for block in stage]


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_features(name: str) -> None:
    torch.manual_seed(0)
    peer = peer_of(name)
    theirs = {key: value.clone() for key, value in peer.state_dict().items()}
    model = build_model({**ROWS[name].config, "num_classes": 10}).double().eval()
    report = load_weights(model, theirs)
    assert report.layout == name.partition("/")[0]
    assert report.dropped == {}
    seen: list[Tensor] = []
    for block in blocks_of(peer, name):
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    for size in ((64, 64), (97, 70)):
        seen.clear()
        x = torch.randn((1, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.double)
        expected = answer(peer, x)
        assert (answer(model, x) - expected).abs().max() <= 1e-9 * expected.abs().max()
        with torch.no_grad():
            found = model.features(x, list(model.blocks) if seen else [])
        for ours, feature in zip(found.values(), seen, strict=True):
            assert (ours - feature).abs().max() <= 1e-9 * feature.abs().max()
    back = to_layout(model, report.layout)
    for parameter in peer.parameters():
        parameter.data.zero_()
    state = peer.state_dict()  # it says which version of MnasNet it is of
    assert back.keys() == state.keys()
    state.update(back)
    peer.load_state_dict(state)
    assert all(torch.equal(value, theirs[key]) for key, value in peer.state_dict().items())
