"""The semantic branch of Kirillov et al., "Panoptic Feature Pyramid Networks", 2019, section 3.1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import gcd
from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.functional import interpolate

from classy_vision.config import PositiveInt, Probability
from classy_vision.heads.classy_head import check_choice, register_head
from classy_vision.heads.dense_head import PyramidalHead, check_maps, enlarge, resize
from classy_vision.layers.conv_norm_act import ConvNormAct

for _name in ("check_maps", "resize"):
    torch.fx.wrap(_name)


class Branch(nn.Module):
    """3x3 convolutions with norm and activation, each before a doubling of the size, up to the finest level.

    Shape: (n, c, h, w) to (n, channels_out, height and width of the finest level).

    Args:
        channels_in: c.
        channels_out: see above.
        doublings: how often the size is doubled.
        align_corners: of the enlargement.
    """

    def __init__(self, channels_in: int, channels_out: int, doublings: int, align_corners: bool) -> None:
        super().__init__()
        channels = (channels_in, *[channels_out] * max(1, doublings))
        self.layers = nn.ModuleList(_conv(a, b) for a, b in pairwise(channels))
        self.doublings = doublings
        self.align_corners = align_corners

    def forward(self, x: Tensor, finest: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers, 1):
            x = layer(x)
            if number < self.doublings:
                x = enlarge(x, 2, self.align_corners)
        return resize(x, finest, self.align_corners) if self.doublings else x


@register_head("pyramid")
class PyramidHead(PyramidalHead):
    """A feature pyramid and a light decoder, whose branches become one map; 1x1 convolution.

    Blocks come finest first. Of blocks of one stride, as those of plain vision transformers, four levels of 4,
    2, 1 and ½ times the size are made by transposed convolutions and pooling (Li et al., "Exploring Plain
    Vision Transformer Backbones for Object Detection", 2022, section 3): all of one block, or one of each of
    four.

    Shape: maps (n, c, h, w), of the patches from tokens, to (n, num_classes, upsample * h, upsample * w) of the
    finest level.

    Args:
        unique_id: the head's name.
        num_classes: channels of the output; None gives the features that the classifier would read.
        in_planes: channels of the blocks; taken from the blocks if they are left out.
        strides: of the blocks; taken from them if they are left out. Without a trunk each is twice the one
            before.
        width: channels of the pyramid.
        branch_width: channels of the branches.
        merge: "add" or "cat", how the branches come together.
        dropout_rate: part of the channels that training drops.
        upsample: enlarges the output by this factor, bilinearly; 4 gives the size of the image where the
            finest stride is 4.
        align_corners: how maps are enlarged; ``segmentation_models_pytorch`` aligns corners.
        trunk_norm: read inner layers of a vision transformer through the trunk's last norm.

    Raises:
        ConfigError: strides that are not one for each block, or not the finest first.
    """

    classifier = "project"

    def __init__(
        self,
        unique_id: str | int | None = None,
        num_classes: PositiveInt | None = None,
        in_planes: tuple[PositiveInt, ...] | None = None,
        strides: tuple[PositiveInt, ...] | None = None,
        width: PositiveInt = 256,
        branch_width: PositiveInt = 128,
        merge: Literal["add", "cat"] = "add",
        dropout_rate: Probability = 0.1,
        upsample: PositiveInt = 1,
        align_corners: bool = False,
        trunk_norm: bool = True,
    ) -> None:
        super().__init__(unique_id, num_classes)
        check_choice("merge", merge, ("add", "cat"))
        self.strides = None if strides is None else tuple(strides)
        self.width, self.branch_width = width, branch_width
        self.merge = merge
        self.upsample = upsample
        self.align_corners = align_corners
        self.trunk_norm = trunk_norm
        self.dropout = nn.Dropout2d(dropout_rate)
        if in_planes is not None:
            self.build(*in_planes)

    def build(self, *in_planes: int) -> None:
        self.in_planes = in_planes
        self.levels = self.plan_levels(len(in_planes))
        channels = [in_planes[level.block] for level in self.levels]
        if self.has_one_stride:
            self.resample = nn.ModuleList(
                resample(c, level.scale) for c, level in zip(channels, self.levels, strict=True)
            )
            channels = [max(1, c // int(max(1, level.scale))) for c, level in zip(channels, self.levels)]
        self.laterals = nn.ModuleList(nn.Conv2d(c, self.width, 1) for c in channels)
        self.branches = nn.ModuleList(
            Branch(self.width, self.branch_width, level.doublings, self.align_corners) for level in self.levels
        )
        if self.num_classes is not None:
            merged = self.branch_width * (len(self.levels) if self.merge == "cat" else 1)
            self.project = nn.Conv2d(merged, self.num_classes, 1)

    def forward(self, *features: Tensor) -> Tensor:
        check_maps(*features)
        maps = [features[level.block] for level in self.levels]
        if self.has_one_stride:
            maps = [layer(x) for layer, x in zip(self.resample, maps, strict=True)]
        levels = list(self._top_down(maps))[::-1]
        parts = [branch(x, levels[0]) for branch, x in zip(self.branches, levels, strict=True)]
        x = sum(parts[1:], parts[0]) if self.merge == "add" else torch.cat(parts, 1)
        if self.num_classes is not None:
            x = self.project(self.dropout(x))
        return enlarge(x, self.upsample, self.align_corners)

    def _top_down(self, maps: Sequence[Tensor]) -> Iterator[Tensor]:
        """The levels of the pyramid, the coarsest first."""
        x: Tensor | None = None
        for lateral, feature in zip(reversed(self.laterals), reversed(maps), strict=True):
            finer = lateral(feature)
            x = finer if x is None else finer + interpolate(x, size=finer.shape[-2:], mode="nearest")
            yield x


def resample(channels: int, scale: float) -> nn.Module:
    """A layer that makes maps 4, 2, 1 or ½ times as large, and their channels as many times fewer from 2 on."""
    if scale == 4.0:
        half, quarter = max(1, channels // 2), max(1, channels // 4)
        up = nn.ConvTranspose2d(channels, half, 2, 2)
        return nn.Sequential(up, ChannelNorm(half), nn.GELU(), nn.ConvTranspose2d(half, quarter, 2, 2))
    if scale == 2.0:
        return nn.ConvTranspose2d(channels, max(1, channels // 2), 2, 2)
    return nn.Identity() if scale == 1.0 else nn.MaxPool2d(2, 2, ceil_mode=True)


class ChannelNorm(nn.LayerNorm):
    """A layer norm at every position of a map. Shape: (n, c, h, w), unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def _conv(channels_in: int, channels_out: int) -> ConvNormAct:
    conv = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return ConvNormAct(conv, nn.GroupNorm(gcd(32, channels_out), channels_out), nn.ReLU())
