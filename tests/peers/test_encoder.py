"""Decoders of segmentation_models_pytorch work on our trunks, with the numbers that they have on their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor

from classy_vision.models import SegmentationEncoder, build_model
from classy_vision.trunk.loading import load_weights
from tests.peers.models import with_weights

MODELS = {"Unet": smp.Unet, "FPN": smp.FPN}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """Our ResNet-18 and RegNet under names that the library's own constructors take."""

    def make(name: str, depth: int, output_stride: int) -> SegmentationEncoder:
        return SegmentationEncoder(build_model(name), depth=depth)

    for name in ("resnet18", "regnet_y_200mf"):
        entry = {"encoder": make, "params": {"name": name}, "pretrained_settings": {}}
        smp.encoders.encoders[f"ours-{name}"] = entry
    yield
    for name in ("resnet18", "regnet_y_200mf"):
        del smp.encoders.encoders[f"ours-{name}"]


def close(given: Tensor, wanted: Tensor) -> None:
    assert (given - wanted).abs().max() <= 1e-9 * wanted.abs().max()


@pytest.mark.parametrize("trunk", ["resnet18", "regnet_y_200mf"])
@pytest.mark.parametrize("name", MODELS)
def test_a_decoder_on_our_trunk(name: str, trunk: str) -> None:
    torch.manual_seed(0)
    model: Any = MODELS[name](f"ours-{trunk}", encoder_weights=None, classes=4).double()
    model.train()
    for module in model.modules():  # dropout would draw anew
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
    x = torch.randn(2, 3, 64, 64, dtype=torch.double)
    masks = model(x)
    masks.square().mean().backward()
    given = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    assert masks.shape == (2, 4, 64, 64)
    assert any(key.startswith("encoder.trunk.blocks") for key in given)

    model.zero_grad()
    encoder = model.encoder
    features = encoder.trunk.features(x, encoder.blocks)
    empty = x.new_empty(2, 0, 32, 32)
    inputs = [x, *[empty] * encoder.missing, *features.values()]
    by_hand = model.segmentation_head(model.decoder(inputs))
    close(masks, by_hand)
    by_hand.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is None) == (key not in given)
        if key in given:
            torch.testing.assert_close(given[key], parameter.grad)


def test_fpn_on_our_resnet_is_fpn_on_theirs() -> None:
    torch.manual_seed(0)
    theirs: Any = with_weights(smp.FPN("resnet18", encoder_weights=None, classes=4))
    ours: Any = smp.FPN("ours-resnet18", encoder_weights=None, classes=4).double().eval()
    state = {key: value for key, value in theirs.encoder.state_dict().items() if not key.startswith("fc.")}
    load_weights(ours.encoder.trunk, state, layout="torchvision")
    ours.decoder.load_state_dict(theirs.decoder.state_dict())
    ours.segmentation_head.load_state_dict(theirs.segmentation_head.state_dict())
    x = torch.randn(2, 3, 64, 96, dtype=torch.double)
    given, wanted = ours(x), theirs(x)
    close(given, wanted)
    given.square().mean().backward()
    wanted.square().mean().backward()
    close(ours.encoder.trunk.blocks["block2-0"].residual.a.conv.weight.grad,
          theirs.encoder.layer3[0].conv1.weight.grad)  # fmt: skip
