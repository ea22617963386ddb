"""EfficientNet: one network, scaled in width, depth and resolution together (Tan & Le,
"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019), and the networks that are
made of the same blocks: EfficientNetV2, MobileNets, MnasNet, MixNet, FBNet, LCNet, TinyNet."""

from typing import TYPE_CHECKING

from classy_vision.models.efficientnet.blocks import BlockParams, MBConvBlock, SqueezeParams
from classy_vision.models.efficientnet.model import (
    BLOCK_PARAMS,
    MODEL_PARAMS,
    EfficientNet,
    EfficientNetConfig,
    EfficientNetParams,
    HiddenParams,
)
from classy_vision.models.efficientnet.networks import PRESETS
from classy_vision.removed import explain_removed

__all__ = [
    "BLOCK_PARAMS",
    "MODEL_PARAMS",
    "PRESETS",
    "BlockParams",
    "EfficientNet",
    "EfficientNetConfig",
    "EfficientNetParams",
    "HiddenParams",
    "MBConvBlock",
    "SqueezeParams",
]

if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__, PRESETS)
