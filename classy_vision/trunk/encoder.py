"""A trunk as an encoder of segmentation_models_pytorch, whose decoders then work on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.trunk.features import FeatureInfo
from classy_vision.trunk.trunk import END, Trunk

STRIDES = (2, 4, 8, 16, 32)
"""Of the features that decoders expect, after the image itself."""


class SegmentationEncoder(nn.Module):
    """Gives the image and features of half, a quarter, … of its size, as an encoder of
    segmentation_models_pytorch does.

    Where the trunk begins with a larger stride, as after a stem of stride 4, the features before it have no
    channels, as in that library. Heads of the trunk do not run.

    Shape: (n, in_channels, h, w) to a list of (n, out_channels[i], h / 2^i, w / 2^i).

    Args:
        trunk: it is used as it is, not copied.
        blocks: one for each stride, the finest first; by default the deepest block of each stride from 2 to 32.
        depth: how often the size is halved; by default as often as the blocks do.

    Raises:
        ConfigError: a block whose feature is not a map, or blocks whose strides are not each twice the one
            before.
    """

    def __init__(self, trunk: Trunk, blocks: Sequence[str] | None = None, depth: int | None = None) -> None:
        super().__init__()
        infos = trunk.feature_info(blocks)
        found = infos if blocks is not None else _deepest_by_stride(infos)
        wanted = STRIDES if depth is None else STRIDES[:depth]
        found = {block: info for block, info in found.items() if depth is None or info.stride in wanted}
        missing = _check_strides(type(trunk).__name__, found, wanted if depth is not None else None)
        self.trunk = trunk
        self.blocks = tuple(found)
        self.in_channels = trunk.input_shape[0]
        self.missing = missing
        self.out_channels = [self.in_channels, *[0] * missing, *(info.channels for info in found.values())]

    @property
    def output_stride(self) -> int:
        """The stride of the last feature; sizes of images must be multiples of it for most decoders."""
        return int(2 ** (len(self.out_channels) - 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        n, _, height, width = x.shape
        empty = [
            torch.empty(n, 0, height // stride, width // stride, dtype=x.dtype, device=x.device)
            for stride in STRIDES[: self.missing]
        ]
        return [x, *empty, *self.trunk.features(x, self.blocks).values()]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Does nothing if the trunk takes images of so many channels.

        Raises:
            ConfigError: it takes others.
        """
        if in_channels != self.in_channels:
            raise ConfigError(
                f"the trunk takes {self.in_channels} channels, not {in_channels}: build it with in_channels = "
                f"{in_channels}, and load weights with load_weights(..., channels=...)"
            )

    def make_dilated(self, output_stride: int) -> None:
        """Strides are the trunk's own.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"output_stride = {output_stride}: the strides of a trunk cannot be changed; those of this one go "
            f"to {self.output_stride}"
        )


def _deepest_by_stride(infos: Mapping[str, FeatureInfo]) -> dict[str, FeatureInfo]:
    """The deepest block of each stride, the finest first; not the end, which decoders do not expect."""
    by_stride = {
        info.stride: info
        for name, info in infos.items()
        if name != END and len(info.shape) == 3 and info.stride in STRIDES
    }
    return {by_stride[stride].name: by_stride[stride] for stride in STRIDES if stride in by_stride}


def _check_strides(trunk: str, found: Mapping[str, FeatureInfo], wanted: Sequence[int] | None) -> int:
    """How many strides of ``STRIDES`` are missing before the first.

    Raises:
        ConfigError: they do not double from block to block, or end early.
    """
    for info in found.values():
        if len(info.shape) != 3:
            raise ConfigError(f"block {info.name!r} of {trunk} gives {info.shape}, and not a map (c, h, w)")
    strides = [info.stride for info in found.values()]
    start = STRIDES.index(strides[0]) if strides and strides[0] in STRIDES else 0
    expected = list(STRIDES[start : start + max(2, len(strides))])
    if strides != expected or (wanted and strides[-1] != wanted[-1]):
        raise ConfigError(
            f"an encoder needs two blocks or more, of which each has twice the stride of the one before, up "
            f"to {(wanted or STRIDES)[-1]}; those of {trunk} have "
            f"{', '.join(f'{name}: {info.stride}' for name, info in found.items()) or 'none'}"
        )
    return start
