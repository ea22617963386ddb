"""What those heads have in common that answer for every position of a map.

Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.fx
from torch import Tensor
from torch.nn.functional import interpolate

from classy_vision.config import ConfigError
from classy_vision.heads.classy_head import ClassyHead, Source

torch.fx.wrap("check_maps")


class DenseHead(ClassyHead):
    """Reads maps (n, c, h, w), those of the patches from a vision transformer, and gives a map."""

    max_blocks = None
    reads_maps = True
    needs_strides = True
    trunk_norm = True

    def connect(self, sources: Sequence[Source]) -> None:
        for source in sources:
            if source.shape is not None and source.tokens is None and len(source.shape) != 3:
                raise ConfigError(
                    f"head {self.unique_id!r} reads maps (c, h, w), but block {source.block!r} gives "
                    f"{source.shape}"
                )
        super().connect(sources)


def check_maps(*features: Tensor) -> None:
    """Raises where a head that reads maps gets something else.

    Raises:
        ValueError: a feature that is not (n, c, h, w).
    """
    for x in features:
        if x.dim() != 4:
            raise ValueError(f"the head reads maps (n, c, h, w), not {tuple(x.shape)}")


def resize(x: Tensor, like: Tensor, align_corners: bool = False) -> Tensor:
    """``x`` resized bilinearly to the height and width of ``like``."""
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=align_corners)


def enlarge(x: Tensor, factor: int, align_corners: bool = False) -> Tensor:
    """``x`` enlarged bilinearly by ``factor``."""
    if factor == 1:
        return x
    return interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=align_corners)
