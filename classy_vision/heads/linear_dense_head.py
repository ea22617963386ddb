"""A linear classifier at every position of a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn

from classy_vision.config import PositiveInt, Probability
from classy_vision.heads.classy_head import Source, check_choice, register_head
from classy_vision.heads.dense_head import DenseHead, check_maps, enlarge, resize

for _name in ("check_maps", "resize"):
    torch.fx.wrap(_name)


@register_head("linear_dense")
class LinearDenseHead(DenseHead):
    """Resizes the maps of all blocks to the finest, one after the other in channels; norm; 1x1 convolution.

    On the last block of a vision transformer, or its last four, this is the linear segmenter of DINOv2 (Oquab
    et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, section 7.4).

    Shape: maps (n, c, h, w), of the patches from tokens, to (n, num_classes, upsample * h, upsample * w) of the
    finest block.

    Args:
        unique_id: the head's name.
        num_classes: channels of the output; None gives the features that the classifier would read.
        in_planes: channels of the blocks; taken from the blocks if they are left out.
        norm: "batch" or "none".
        dropout_rate: part of the channels that training drops.
        upsample: enlarges the output by this factor, bilinearly.
        trunk_norm: read inner layers of a vision transformer through the trunk's last norm.
    """

    classifier = "project"

    def __init__(
        self,
        unique_id: str | int | None = None,
        num_classes: PositiveInt | None = None,
        in_planes: tuple[PositiveInt, ...] | None = None,
        norm: Literal["batch", "none"] = "batch",
        dropout_rate: Probability = 0.0,
        upsample: PositiveInt = 1,
        trunk_norm: bool = True,
    ) -> None:
        super().__init__(unique_id, num_classes)
        check_choice("norm", norm, ("batch", "none"))
        self.norm_kind = norm
        self.upsample = upsample
        self.trunk_norm = trunk_norm
        self.finest = 0
        self.dropout = nn.Dropout2d(dropout_rate)
        if in_planes is not None:
            self.build(*in_planes)

    def connect(self, sources: Sequence[Source]) -> None:
        super().connect(sources)
        strides = [source.stride or 0 for source in sources]
        self.finest = strides.index(min(strides))

    def build(self, *in_planes: int) -> None:
        self.in_planes = in_planes
        if self.norm_kind == "batch":
            self.norm = nn.BatchNorm2d(sum(in_planes))
        if self.num_classes is not None:
            self.project = nn.Conv2d(sum(in_planes), self.num_classes, 1)
            nn.init.normal_(self.project.weight, std=0.01)
            nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, *features: Tensor) -> Tensor:
        check_maps(*features)
        finest = features[self.finest]
        x = torch.cat([resize(x, finest) for x in features], 1)
        if self.norm_kind == "batch":
            x = self.norm(x)
        if self.num_classes is not None:
            x = self.project(self.dropout(x))
        return enlarge(x, self.upsample)
