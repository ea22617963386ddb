"""ResNet and ResNeXt (He et al., "Deep Residual Learning for Image Recognition", 2016; Xie et al.,
"Aggregated Residual Transformations for Deep Neural Networks", 2017), with the stride on the 3x3."""

from typing import TYPE_CHECKING

from classy_vision.models.resnext.model import PRESETS, ResNeXt, ResNeXtBlock, ResNeXtConfig, basic, bottleneck
from classy_vision.removed import explain_removed

__all__ = ["PRESETS", "ResNeXt", "ResNeXtBlock", "ResNeXtConfig", "basic", "bottleneck"]

if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__, PRESETS)
