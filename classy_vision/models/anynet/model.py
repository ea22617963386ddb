"""AnyNet: stages of equal blocks (Radosavovic et al., "Designing Network Design Spaces", 2020).

Blocks are named ``block{stage}-{index}``, stages counted from 1; ``block{stage}`` is the end of a
stage. Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from classy_vision.config import Choice, PositiveFloat, PositiveInt
from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.layers.conv_norm_act import ConvFactory, sequential
from classy_vision.layers.initialize import fan_out_normal
from classy_vision.layers.residual import add_shortcut
from classy_vision.layers.squeeze_and_excitation import SqueezeAndExcitationLayer
from classy_vision.layers.stochastic_depth import StochasticDepth, depth_rates
from classy_vision.models.anynet.keys import LAYOUTS
from classy_vision.models.anynet.shapes import SHAPES
from classy_vision.models.classy_model import ClassyModel, register_model
from classy_vision.trunk.trunk import END, ModelConfig

# -- config


class BlockType(Choice):
    """What a block is made of."""

    VANILLA_BLOCK = "vanilla_block"
    RES_BASIC_BLOCK = "res_basic_block"
    RES_BOTTLENECK_BLOCK = "res_bottleneck_block"
    RES_BOTTLENECK_LINEAR_BLOCK = "res_bottleneck_linear_block"


class StemType(Choice):
    """What turns the image into features."""

    RES_STEM_CIFAR = "res_stem_cifar"
    RES_STEM_IN = "res_stem_in"
    SIMPLE_STEM_IN = "simple_stem_in"


class AnyNetOptions(ModelConfig):
    """What all stages have in common.

    Attributes:
        stem_type: 3x3 (cifar), 7x7 stride 2 and max pool (res_stem_in), 3x3 stride 2 (simple).
        stem_width: its channels.
        block_type: of all blocks.
        activation: "relu", "silu", or another name of an activation.
        use_se: squeeze-and-excitation in bottlenecks.
        se_ratio: its width, as a part of the block's input channels.
        bn_epsilon, bn_momentum: of all batch norms.
        final_activation: once more at the end of the trunk, as published RegNetZ weights need.
    """

    stem_type: Annotated[StemType, Field(strict=False)] = StemType.SIMPLE_STEM_IN
    stem_width: PositiveInt = 32
    block_type: Annotated[BlockType, Field(strict=False)] = BlockType.RES_BOTTLENECK_BLOCK
    activation: Annotated[ActivationType, Field(strict=False)] = ActivationType.RELU
    use_se: bool = True
    se_ratio: Annotated[float, Field(gt=0, le=1)] = 0.25
    bn_epsilon: PositiveFloat = 1e-5
    bn_momentum: Annotated[float, Field(ge=0, le=1)] = 0.1
    final_activation: bool = False

    def to_anynet(self) -> AnyNetParams:
        """The network stage by stage."""
        raise NotImplementedError


class AnyNetParams(AnyNetOptions):
    """A network given stage by stage; all lists have one entry per stage.

    Attributes:
        depths: blocks.
        widths: channels.
        group_widths: channels per group of the 3x3 convolution in bottlenecks.
        bottleneck_multipliers: inner width of bottlenecks, as a multiple of the width.
        strides: of the first block.
    """

    depths: tuple[PositiveInt, ...]
    widths: tuple[PositiveInt, ...]
    group_widths: tuple[PositiveInt, ...]
    bottleneck_multipliers: tuple[PositiveFloat, ...]
    strides: tuple[PositiveInt, ...]

    def to_anynet(self) -> AnyNetParams:
        return self

    def get_expanded_params(self) -> list[tuple[int, int, int, int, float]]:
        """(width, stride, depth, group width, bottleneck multiplier) of each stage."""
        return list(zip(self.widths, self.strides, self.depths, self.group_widths, self.bottleneck_multipliers))

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        lists = ("depths", "widths", "group_widths", "bottleneck_multipliers", "strides")
        lengths = {name: len(getattr(self, name)) for name in lists}
        if len(set(lengths.values())) > 1 or not self.depths:
            raise ValueError(f"every list needs one entry per stage, but their lengths are {lengths}")
        if self.block_type in (BlockType.RES_BOTTLENECK_BLOCK, BlockType.RES_BOTTLENECK_LINEAR_BLOCK):
            for width, _, _, group_width, multiplier in self.get_expanded_params():
                _check_groups(width, round(width * multiplier), group_width)
        return self


def _check_groups(width: int, inner: int, group_width: int) -> None:
    if inner % group_width:
        groups = inner // group_width
        same = f"; {inner // groups} gives the {groups} groups of the original" if groups else ""
        same = same if groups and inner % groups == 0 else ""
        raise ValueError(
            f"a group width of {group_width} does not divide the {inner} inner channels of a "
            f"stage of width {width}{same}"
        )


# -- blocks, small to large


class ResBlock(nn.Module):
    """A residual branch, a shortcut where there is one, and an activation after their sum."""

    def __init__(
        self,
        shortcut: nn.Module | None,
        residual: nn.Module,
        activation: nn.Module,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.residual = residual
        self.drop = StochasticDepth(drop)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.residual(x)
        if self.shortcut is not None:  # without one, dropping the branch would leave nothing
            out = add_shortcut(self.drop(out), self.shortcut(x))
        return self.activation(out)


@dataclass(frozen=True)
class _Plan:
    """What one block is built from."""

    conv: ConvFactory
    width_in: int
    width: int
    stride: int
    group_width: int
    multiplier: float
    se_ratio: float | None
    drop: float

    @property
    def same_shape(self) -> bool:
        return self.width_in == self.width and self.stride == 1

    def shortcut(self) -> nn.Module:
        if self.same_shape:
            return nn.Identity()
        return self.conv(self.width_in, self.width, 1, self.stride, act=False)

    def bottleneck(self) -> nn.Sequential:
        inner = round(self.width * self.multiplier)
        a = self.conv(self.width_in, inner, 1)
        b = self.conv(inner, inner, 3, self.stride, groups=inner // self.group_width)
        if self.se_ratio is None:
            return sequential(a=a, b=b, c=self.conv(inner, self.width, 1, act=False))
        squeeze = max(1, round(self.se_ratio * self.width_in))
        se = SqueezeAndExcitationLayer(inner, None, squeeze, self.conv.act())
        return sequential(a=a, b=b, se=se, c=self.conv(inner, self.width, 1, act=False))


def vanilla_block(p: _Plan) -> nn.Module:
    """3x3, 3x3; no shortcut."""
    return sequential(a=p.conv(p.width_in, p.width, 3, p.stride), b=p.conv(p.width, p.width, 3))


def res_basic_block(p: _Plan) -> nn.Module:
    """3x3, 3x3; shortcut; activation."""
    shortcut = p.shortcut()
    a = p.conv(p.width_in, p.width, 3, p.stride)
    return ResBlock(shortcut, sequential(a=a, b=p.conv(p.width, p.width, 3, act=False)), p.conv.act(), p.drop)


def res_bottleneck_block(p: _Plan) -> nn.Module:
    """1x1, grouped 3x3, squeeze-and-excitation, 1x1; shortcut; activation."""
    return ResBlock(p.shortcut(), p.bottleneck(), p.conv.act(), p.drop)


def res_bottleneck_linear_block(p: _Plan) -> nn.Module:
    """The same branch, added to the input where shapes are equal, without an activation."""
    return ResBlock(nn.Identity() if p.same_shape else None, p.bottleneck(), nn.Identity(), p.drop)


BLOCKS: dict[BlockType, Callable[[_Plan], nn.Module]] = {
    BlockType.VANILLA_BLOCK: vanilla_block,
    BlockType.RES_BASIC_BLOCK: res_basic_block,
    BlockType.RES_BOTTLENECK_BLOCK: res_bottleneck_block,
    BlockType.RES_BOTTLENECK_LINEAR_BLOCK: res_bottleneck_linear_block,
}

# (kernel, stride, whether a max pool follows)
STEMS: dict[StemType, tuple[int, int, bool]] = {
    StemType.RES_STEM_CIFAR: (3, 1, False),
    StemType.RES_STEM_IN: (7, 2, True),
    StemType.SIMPLE_STEM_IN: (3, 2, False),
}

# -- model


@register_model("anynet")
class AnyNet(ClassyModel):
    """A stem and stages of blocks.

    Shape: (n, in_channels, h, w) to (n, last width, h / stride, w / stride), where stride is
    that of the stem times those of the stages.
    """

    config_class: ClassVar[type[ModelConfig]] = AnyNetParams
    layouts = LAYOUTS
    shapes = SHAPES
    config: AnyNetOptions

    def __init__(self, config: AnyNetOptions | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        p = self.params
        conv = ConvFactory(p.activation, p.bn_epsilon, p.bn_momentum)
        kernel, stride, pool = STEMS[p.stem_type]
        self.add_step("stem", conv.stem(p.in_channels, p.stem_width, kernel, stride, pool), p.stem_width)
        drops = iter(depth_rates(p.stochastic_depth, sum(p.depths)))
        se_ratio = p.se_ratio if p.use_se else None
        before = p.stem_width
        for s, (width, stride, depth, group_width, multiplier) in enumerate(p.get_expanded_params(), 1):
            for i in range(depth):
                step = stride if i == 0 else 1
                plan = _Plan(conv, before, width, step, group_width, multiplier, se_ratio, next(drops))
                self.add_step(f"block{s}-{i}", BLOCKS[p.block_type](plan), width)
                before = width
        tail = new_activation(p.activation, inplace=False) if p.final_activation else nn.Identity()
        self.add_step(END, tail, before)
        fan_out_normal(self)

    @property
    def params(self) -> AnyNetParams:
        """The network stage by stage."""
        return self.config.to_anynet()

    @property
    def input_shape(self) -> tuple[int, ...]:
        size = 32 if self.config.stem_type is StemType.RES_STEM_CIFAR else 224
        return (self.config.in_channels, size, size)
