"""Vision transformer (Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021), with what DeiT,
CLIP, MAE, DINOv2 and others changed in it, optionally with a convolutional stem (Xiao et al.,
"Early Convolutions Help Transformers See Better", 2021)."""

from typing import TYPE_CHECKING

from classy_vision.models.vision_transformer.model import PRESETS, VisionTransformer, VisionTransformerConfig
from classy_vision.removed import explain_removed

__all__ = ["PRESETS", "VisionTransformer", "VisionTransformerConfig"]

if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__, PRESETS)
