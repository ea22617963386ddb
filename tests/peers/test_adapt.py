"""Weights made to fit another network, as the peers do it."""

from __future__ import annotations

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv

from classy_vision.models import build_model, load_weights
from classy_vision.models.pretrained import to_layout


@pytest.mark.parametrize(("channels", "how"), [(1, "mean"), (2, "repeat"), (4, "repeat"), (7, "repeat")])
def test_input_channels(channels: int, how: str) -> None:
    torch.manual_seed(0)
    state = to_layout(build_model("resnet18", num_classes=3), "timm")
    model = build_model("resnet18", num_classes=3, in_channels=channels)
    report = load_weights(model, state, channels=how)
    assert report.changed == {"stem.conv.weight": f"3 input channels to {channels}, {how}"}
    expected = adapt_input_conv(channels, state["conv1.weight"])
    torch.testing.assert_close(model.stem.conv.weight, expected)


@pytest.mark.parametrize("size", [32, 64, [48, 32]])
def test_positions(size: int | list[int]) -> None:
    config = {"name": "vision_transformer", "image_size": 40, "patch_size": 8, "num_layers": 1}
    config |= {"num_heads": 2, "hidden_dim": 16, "mlp_dim": 16, "pos_embed_resize": "bicubic_antialias"}
    torch.manual_seed(0)
    source = build_model(config)
    model = build_model(config, image_size=size)
    load_weights(model, to_layout(source, "timm"))
    height, width = (size, size) if isinstance(size, int) else size
    expected = resample_abs_pos_embed(source.stem.positions, (height // 8, width // 8))
    torch.testing.assert_close(model.stem.positions, expected)
