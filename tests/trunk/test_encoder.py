"""A trunk as an encoder of another library: what it gives, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from classy_vision.config import ConfigError
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import SegmentationEncoder, build_model
from tests.models.small import FAMILIES


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
@pytest.mark.parametrize("name", ["resnet18", "regnet_y_200mf", "efficientnet_b0", "densenet121"])
def test_features_halve_in_size(name: str, size: tuple[int, int]) -> None:
    encoder = SegmentationEncoder(build_model(name).eval())
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        features = encoder(x)
    assert [f.shape[1] for f in features] == encoder.out_channels
    assert [f.shape[2:] for f in features] == [(size[0] >> i, size[1] >> i) for i in range(6)]
    assert features[0] is x
    assert encoder.output_stride == 32
    assert encoder.missing == (1 if name in ("resnet18", "densenet121") else 0)


def test_blocks_are_the_deepest_of_their_stride() -> None:
    encoder = SegmentationEncoder(build_model("resnet18"))
    assert encoder.blocks == ("block0-1", "block1-1", "block2-1", "block3-1")
    assert encoder.out_channels == [3, 0, 64, 128, 256, 512]
    shallow = SegmentationEncoder(build_model("resnet18"), depth=4)
    assert (shallow.out_channels, shallow.output_stride) == ([3, 0, 64, 128, 256], 16)


def test_heads_do_not_run_and_the_trunk_is_the_same() -> None:
    model = build_model("resnet18").eval()
    encoder = SegmentationEncoder(model, ["block0", "block1"])
    model.set_heads({"block3": [FullyConnectedHead("a", 3)]})
    features = encoder(torch.randn(1, 3, 64, 64))
    assert [tuple(f.shape[1:]) for f in features] == [(3, 64, 64), (0, 32, 32), (64, 16, 16), (128, 8, 8)]
    assert encoder.trunk is model


def test_what_is_refused() -> None:
    vit = build_model({**FAMILIES["vision_transformer"][0], "feature_format": "map"})
    with pytest.raises(
        ConfigError, match="each has twice the stride of the one before, up to 32; .* layer_0: 8"
    ):
        SegmentationEncoder(vit, ["layer_0", "layer_1"])
    with pytest.raises(ConfigError, match="those of VisionTransformer have ln: 8"):
        SegmentationEncoder(vit)
    with pytest.raises(ConfigError, match=r"block 'layer1' of MLP gives \(6,\), and not a map"):
        SegmentationEncoder(build_model(FAMILIES["mlp"][0]), ["layer1"])
    with pytest.raises(ConfigError, match="block0: 4, block2: 16"):
        SegmentationEncoder(build_model("resnet18"), ["block0", "block2"])
    with pytest.raises(ConfigError, match="up to 32; those of ResNet have block0-0: 4"):
        SegmentationEncoder(build_model(FAMILIES["resnet"][0]), depth=5)
    encoder = SegmentationEncoder(build_model("resnet18"))
    encoder.set_in_channels(3)
    with pytest.raises(ConfigError, match="takes 3 channels, not 4: build it with in_channels = 4"):
        encoder.set_in_channels(4)
    with pytest.raises(ConfigError, match="output_stride = 16: the strides of a trunk cannot be changed"):
        encoder.make_dilated(16)
