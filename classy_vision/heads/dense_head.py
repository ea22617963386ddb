"""What those heads have in common that answer for every position of a map.

Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

import torch.fx
from torch import Tensor
from torch.nn.functional import interpolate

from classy_vision.config import ConfigError
from classy_vision.heads.classy_head import ClassyHead, Source

for _name in ("check_maps", "resize"):
    torch.fx.wrap(_name)
SCALES = (4.0, 2.0, 1.0, 0.5)
"""Of the levels that are made from blocks of one stride."""


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


class Level(NamedTuple):
    """A map of a pyramid.

    Attributes:
        block: the number of the block that it is made of.
        scale: how much larger it is than the block's map.
        doublings: how often its size doubles until it is that of the finest level.
    """

    block: int
    scale: float
    doublings: int


class PyramidalHead(DenseHead):
    """Makes a pyramid of its blocks, the finest first, which a subclass puts together.

    Blocks of one stride, as those of plain vision transformers, become four levels of 4, 2, 1 and ½ times their
    size: all of one block, as in Li et al., "Exploring Plain Vision Transformer Backbones for Object
    Detection", 2022, section 3, or one of each of four, as in Ranftl et al., "Vision Transformers for Dense
    Prediction", 2021.
    """

    strides: tuple[int, ...] | None = None
    """Of the blocks, once they are known. Without a trunk each is twice the one before."""

    def connect(self, sources: Sequence[Source]) -> None:
        strides = tuple(source.stride or 1 for source in sources)
        self._check_order([source.block for source in sources], strides)
        if self.strides is not None and _count_doublings(strides) != _count_doublings(self.strides):
            raise ConfigError(
                f"head {self.unique_id!r} is made for strides {list(self.strides)}, but its blocks have "
                f"{list(strides)}"
            )
        self.strides = strides
        super().connect(sources)

    def plan_levels(self, number: int) -> list[Level]:
        """The levels of the pyramid of so many blocks, the finest first.

        Raises:
            ConfigError: strides that are not one for each block or not the finest first, or more blocks of one
                stride than levels.
        """
        strides = self.strides or tuple(2**k for k in range(number))
        if len(strides) != number:
            raise ConfigError(
                f"head {self.unique_id!r}: {len(strides)} strides for {number} blocks; one for each is needed"
            )
        self._check_order([str(k) for k in range(number)], strides)
        self.strides = strides
        if not self.has_one_stride:
            return [Level(k, 1.0, doublings) for k, doublings in enumerate(_count_doublings(strides))]
        if number > len(SCALES):
            raise ConfigError(
                f"head {self.unique_id!r} reads {number} blocks of one stride, of which it makes {len(SCALES)} "
                f"levels: name {len(SCALES)} blocks at the most"
            )
        return [Level(k * number // len(SCALES), scale, k) for k, scale in enumerate(SCALES)]

    @property
    def has_one_stride(self) -> bool:
        """Whether levels are made from blocks of one stride."""
        return self.strides is not None and len(set(self.strides)) == 1

    def _check_order(self, blocks: Sequence[str], strides: Sequence[int]) -> None:
        order = sorted(range(len(strides)), key=lambda k: strides[k])
        if [strides[k] for k in order] != list(strides):
            raise ConfigError(
                f"head {self.unique_id!r} reads its blocks finest first, not with strides {list(strides)}: "
                f"[{', '.join(blocks[k] for k in order)}]"
            )


def _count_doublings(strides: Sequence[int]) -> list[int]:
    """How often each map doubles in size until it is about as large as the first."""
    return [round(log2(stride / strides[0])) for stride in strides]


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
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    return interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def enlarge(x: Tensor, factor: int, align_corners: bool = False) -> Tensor:
    """``x`` enlarged bilinearly by ``factor``."""
    if factor == 1:
        return x
    return interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=align_corners)
