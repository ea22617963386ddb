"""RegNet: AnyNets whose widths lie on a line (Radosavovic et al., "Designing Network Design
Spaces", 2020, section 4; RegNetZ: Dollár et al., "Fast and Accurate Model Scaling", 2021).

Blocks are named ``block{stage}-{index}``, stages counted from 1; ``block{stage}`` is the end of a
stage. Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from itertools import groupby
from math import log
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from classy_vision.config import PositiveFloat, PositiveInt
from classy_vision.layers.activation import ActivationType
from classy_vision.models.anynet.model import (
    AnyNet,
    AnyNetOptions,
    AnyNetParams,
    BlockType,
    StemType,
)
from classy_vision.models.classy_model import register_model
from classy_vision.removed import explain_removed
from classy_vision.trunk.trunk import ModelConfig

__all__ = ["ActivationType", "AnyNet", "AnyNetParams", "BlockType", "RegNet", "RegNetParams", "StemType"]


class RegNetParams(AnyNetOptions):
    """A line of widths, u = w_0 + w_a * block, rounded to powers w_0 * w_m ** k.

    Attributes:
        depth: blocks in all.
        w_0: width of the first block before rounding, a multiple of 8.
        w_a: slope of the line.
        w_m: ratio of the widths of neighbouring stages, above 1.
        group_width: channels per group; narrower stages have one group.
        bottleneck_multiplier: inner width of the blocks, as a multiple of the width.
        width_rounding: of stages to multiples of the group width: to the nearest, as in the paper,
            or as torchvision does, never below nine tenths; three of its models differ.
    """

    depth: PositiveInt
    w_0: PositiveInt
    w_a: Annotated[float, Field(ge=0)]
    w_m: Annotated[float, Field(gt=1)]
    group_width: PositiveInt
    bottleneck_multiplier: PositiveFloat = 1.0
    width_rounding: Literal["nearest", "torchvision"] = "nearest"

    @field_validator("w_0")
    @classmethod
    def _multiple_of_8(cls, w_0: int) -> int:
        if w_0 % 8:
            raise ValueError(f"must be a multiple of 8, for example {max(8, round(w_0 / 8) * 8)}")
        return w_0

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        self.to_anynet()
        return self

    def to_anynet(self) -> AnyNetParams:
        stages = [(width, len(list(blocks))) for width, blocks in groupby(self._block_widths())]
        groups = [min(self.group_width, int(w * self.bottleneck_multiplier)) for w, _ in stages]
        if 0 in groups:
            raise ValueError(
                f"bottleneck_multiplier = {self.bottleneck_multiplier} leaves no channels in a stage of "
                f"width {stages[groups.index(0)][0]}"
            )
        shared = {name: getattr(self, name) for name in AnyNetOptions.model_fields}
        return AnyNetParams(
            depths=tuple(depth for _, depth in stages),
            widths=tuple(self._fit(w, group) for (w, _), group in zip(stages, groups)),
            group_widths=tuple(groups),
            bottleneck_multipliers=(self.bottleneck_multiplier,) * len(stages),
            strides=(2,) * len(stages),
            **shared,
        )

    def get_expanded_params(self) -> list[tuple[int, int, int, int, float]]:
        """(width, stride, depth, group width, bottleneck multiplier) of each stage."""
        return self.to_anynet().get_expanded_params()

    def _block_widths(self) -> list[int]:
        """Equations 2 to 4 of the paper."""
        line = [self.w_0 + self.w_a * block for block in range(self.depth)]
        powers = [round(log(u / self.w_0) / log(self.w_m)) for u in line]
        return [8 * round(self.w_0 * self.w_m**power / 8) for power in powers]

    def _fit(self, width: int, group: int) -> int:
        """The width whose inner width is a multiple of the group's."""
        inner = int(width * self.bottleneck_multiplier)
        groups = max(1, round(inner / group))
        if self.width_rounding == "torchvision":
            groups = max(1, int(inner + group / 2) // group)
            groups += groups * group < 0.9 * inner
        return int(groups * group / self.bottleneck_multiplier)


_Z: dict[str, Any] = {
    "bottleneck_multiplier": 4.0,
    "block_type": BlockType.RES_BOTTLENECK_LINEAR_BLOCK.value,
    "activation": ActivationType.SILU.value,
}

# name: depth, w_0, w_a, w_m, group width, further options.
# X and Y: tables 2 and 3 of the paper's appendix as published with pycls; above 32GF: ClassyVision's;
# seer: those of the published weights (Goyal et al., 2022), which are others; Z: pycls.
_ROWS: dict[str, tuple[int, int, float, float, int, dict[str, Any]]] = {
    "regnet_x_200mf": (13, 24, 36.44, 2.49, 8, {"use_se": False}),
    "regnet_x_400mf": (22, 24, 24.48, 2.54, 16, {"use_se": False}),
    "regnet_x_600mf": (16, 48, 36.97, 2.24, 24, {"use_se": False}),
    "regnet_x_800mf": (16, 56, 35.73, 2.28, 16, {"use_se": False}),
    "regnet_x_1.6gf": (18, 80, 34.01, 2.25, 24, {"use_se": False}),
    "regnet_x_3.2gf": (25, 88, 26.31, 2.25, 48, {"use_se": False}),
    "regnet_x_4gf": (23, 96, 38.65, 2.43, 40, {"use_se": False}),
    "regnet_x_6.4gf": (17, 184, 60.83, 2.07, 56, {"use_se": False}),
    "regnet_x_8gf": (23, 80, 49.56, 2.88, 120, {"use_se": False}),
    "regnet_x_12gf": (19, 168, 73.36, 2.37, 112, {"use_se": False}),
    "regnet_x_16gf": (22, 216, 55.59, 2.10, 128, {"use_se": False}),
    "regnet_x_32gf": (23, 320, 69.86, 2.00, 168, {"use_se": False}),
    "regnet_y_200mf": (13, 24, 36.44, 2.49, 8, {}),
    "regnet_y_400mf": (16, 48, 27.89, 2.09, 8, {}),
    "regnet_y_600mf": (15, 48, 32.54, 2.32, 16, {}),
    "regnet_y_800mf": (14, 56, 38.84, 2.40, 16, {}),
    "regnet_y_1.6gf": (27, 48, 20.71, 2.65, 24, {}),
    "regnet_y_3.2gf": (21, 80, 42.63, 2.66, 24, {}),
    "regnet_y_4gf": (22, 96, 31.41, 2.24, 64, {}),
    "regnet_y_6.4gf": (25, 112, 33.22, 2.27, 72, {}),
    "regnet_y_8gf": (17, 192, 76.82, 2.19, 56, {}),
    "regnet_y_12gf": (19, 168, 73.36, 2.37, 112, {}),
    "regnet_y_16gf": (18, 200, 106.23, 2.48, 112, {}),
    "regnet_y_32gf": (20, 232, 115.89, 2.53, 232, {}),
    "regnet_y_64gf": (20, 352, 147.48, 2.40, 328, {}),
    "regnet_y_128gf": (27, 456, 160.83, 2.52, 264, {}),
    "regnet_y_256gf": (27, 640, 124.47, 2.04, 848, {}),
    "regnet_y_256gf_seer": (27, 640, 230.83, 2.53, 373, {}),
    "regnet_y_10b_seer": (27, 1744, 620.83, 2.52, 1010, {}),
    "regnet_z_500mf": (21, 16, 10.7, 2.51, 4, _Z),
    "regnet_z_4gf": (28, 48, 14.5, 2.226, 8, _Z),
}
PRESETS = {
    name: {"depth": depth, "w_0": w_0, "w_a": w_a, "w_m": w_m, "group_width": group_width, **more}
    for name, (depth, w_0, w_a, w_m, group_width, more) in _ROWS.items()
}


@register_model("regnet", PRESETS)
class RegNet(AnyNet):
    """An AnyNet made from a line of widths.

    Shape: (n, in_channels, h, w) to (n, last width, h / 32, w / 32), with four stages.
    """

    config_class: ClassVar[type[ModelConfig]] = RegNetParams


if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__, PRESETS)
