"""EfficientNet: one network, scaled in width, depth and resolution together (Tan & Le,
"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019)."""

from typing import TYPE_CHECKING

from classy_vision.models.efficientnet.model import (
    BLOCK_PARAMS,
    MODEL_PARAMS,
    PRESETS,
    SE_RATIO,
    BlockParams,
    EfficientNet,
    EfficientNetConfig,
    EfficientNetParams,
    MBConvBlock,
)
from classy_vision.removed import explain_removed

__all__ = [
    "BLOCK_PARAMS",
    "MODEL_PARAMS",
    "PRESETS",
    "SE_RATIO",
    "BlockParams",
    "EfficientNet",
    "EfficientNetConfig",
    "EfficientNetParams",
    "MBConvBlock",
]

if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__, PRESETS)
