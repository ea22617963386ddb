"""ResNeXt3D: residual networks for clips, of plain, grouped or (2+1)-dimensional convolutions (Tran et
al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", 2018; Feichtenhofer et al.,
"SlowFast Networks for Video Recognition", 2019, for the bottlenecks)."""

from typing import TYPE_CHECKING

from classy_vision.models.resnext3d.model import PRESETS, ResNeXt3D, ResNeXt3DConfig
from classy_vision.removed import explain_removed

__all__ = ["PRESETS", "ResNeXt3D", "ResNeXt3DConfig"]

if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__, PRESETS)
