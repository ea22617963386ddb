"""ResNet and ResNeXt (He et al., "Deep Residual Learning for Image Recognition", 2016; Xie et al.,
"Aggregated Residual Transformations for Deep Neural Networks", 2017), with the stride on the 3x3, and with the
changes of ResNet-D (He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks",
2019), ResNet-RS (Bello et al., "Revisiting ResNets", 2021) and others.

Blocks are named ``block{stage}-{index}``, both counted from 0; ``block{stage}`` is the end of a
stage. Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from classy_vision.config import NonNegativeInt, PositiveFloat, PositiveInt
from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.layers.blur_pool import BlurPool2d
from classy_vision.layers.conv_norm_act import ConvFactory, ConvNormAct, sequential
from classy_vision.layers.efficient_channel_attention import EfficientChannelAttention
from classy_vision.layers.initialize import kaiming_fan_out
from classy_vision.layers.residual import add_shortcut
from classy_vision.layers.squeeze_and_excitation import SqueezeAndExcitationLayer
from classy_vision.layers.stochastic_depth import StochasticDepth, depth_rates
from classy_vision.models.classy_model import ClassyModel, register_model
from classy_vision.models.resnext.keys import LAYOUTS
from classy_vision.models.resnext.shapes import SHAPES
from classy_vision.trunk.trunk import END, ModelConfig

# -- config


class ResNeXtConfig(ModelConfig):
    """A ResNet or ResNeXt.

    Attributes:
        num_blocks: blocks per stage.
        init_planes: channels of the stem and inner channels of the first stage.
        reduction: a stage's output channels per inner channel; 4, or 1 with ``basic_layer``.
        small_input: 3x3 stem without stride or pooling, as for CIFAR; always of basic layers.
        zero_init_bn_residuals: start residual branches at zero (Goyal et al., 2017, 5.1).
        base_width_and_cardinality: channels per group and number of groups of the 3x3.
        basic_layer: two 3x3 instead of bottlenecks.
        final_bn_relu: the last block's norm and activation.
        use_se, se_reduction_ratio: squeeze-and-excitation at the end of residual branches.
        use_eca: efficient channel attention in place of squeeze-and-excitation.
        stem: "conv7", one 7x7 convolution, or three 3x3: "deep" of ResNet-D, "tiered" with a narrow first one.
        stem_width: channels inside a stem of three; it gives twice as many.
        stem_pool: "max", or a 3x3 convolution of stride 2, "conv", as in ResNet-RS.
        shortcut: where shapes change, a 1x1 convolution, "conv", after average pooling with "avg" (ResNet-D).
        anti_alias: what takes the stride of a 3x3 and of the first pooling over: "avg", average pooling, or
            "blur" (Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019).
        norm: "batch", or "group" norms of 32 groups.
        bn_epsilon, bn_momentum: of all norms.
    """

    num_blocks: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    init_planes: PositiveInt = 64
    reduction: PositiveInt = 4
    small_input: bool = False
    zero_init_bn_residuals: bool = False
    base_width_and_cardinality: tuple[PositiveInt, PositiveInt] | None = None
    basic_layer: bool = False
    final_bn_relu: bool = True
    use_se: bool = False
    se_reduction_ratio: PositiveInt = 16
    use_eca: bool = False
    stem: Literal["conv7", "deep", "tiered"] = "conv7"
    stem_width: PositiveInt = 32
    stem_pool: Literal["max", "conv"] = "max"
    shortcut: Literal["conv", "avg"] = "conv"
    anti_alias: Literal["none", "avg", "blur"] = "none"
    norm: Literal["batch", "group"] = "batch"
    bn_epsilon: PositiveFloat = 1e-5
    bn_momentum: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="before")
    @classmethod
    def _basic_layers_do_not_reduce(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("basic_layer") is True and "reduction" not in data:
            return {**data, "reduction": 1}
        return data

    @model_validator(mode="after")
    def _check_alternatives(self) -> Self:
        if self.use_se and self.use_eca:
            raise ValueError("use_se and use_eca exclude each other")
        if self.small_input and (self.stem, self.stem_pool) != ("conv7", "max"):
            raise ValueError("small_input has a stem of its own: leave stem and stem_pool out")
        return self

    @property
    def is_basic(self) -> bool:
        """Two-layer blocks: asked for, or because the input is small."""
        return self.basic_layer or self.small_input


def _preset(num_blocks: tuple[int, ...], groups: tuple[int, int] | None = None, **more: Any) -> dict[str, Any]:
    row = {"num_blocks": num_blocks, "zero_init_bn_residuals": True, **more}
    return row if groups is None else {**row, "base_width_and_cardinality": groups}


_D: dict[str, Any] = {"stem": "deep", "shortcut": "avg"}
_RS: dict[str, Any] = {**_D, "stem_pool": "conv", "use_se": True, "se_reduction_ratio": 4}
# (blocks per stage), (width of a group, number of groups)
PRESETS: dict[str, dict[str, Any]] = {
    "resnet18": _preset((2, 2, 2, 2), basic_layer=True),
    "resnet34": _preset((3, 4, 6, 3), basic_layer=True),
    "resnet50": _preset((3, 4, 6, 3)),
    "resnet101": _preset((3, 4, 23, 3)),
    "resnet152": _preset((3, 8, 36, 3)),
    "resnext50_32x4d": _preset((3, 4, 6, 3), (4, 32)),
    "resnext101_32x4d": _preset((3, 4, 23, 3), (4, 32)),
    "resnext101_32x8d": _preset((3, 4, 23, 3), (8, 32)),
    "resnext101_32x16d": _preset((3, 4, 23, 3), (16, 32)),
    "resnext101_32x32d": _preset((3, 4, 23, 3), (32, 32)),
    "resnext101_64x4d": _preset((3, 4, 23, 3), (4, 64)),
    "resnext152_32x4d": _preset((3, 8, 36, 3), (4, 32)),
    "wide_resnet50_2": _preset((3, 4, 6, 3), (128, 1)),
    "wide_resnet101_2": _preset((3, 4, 23, 3), (128, 1)),
    "resnet18d": _preset((2, 2, 2, 2), basic_layer=True, **_D),
    "resnet34d": _preset((3, 4, 6, 3), basic_layer=True, **_D),
    "resnet50d": _preset((3, 4, 6, 3), **_D),
    "resnet101d": _preset((3, 4, 23, 3), **_D),
    "resnet152d": _preset((3, 8, 36, 3), **_D),
    "resnet200d": _preset((3, 24, 36, 3), **_D),
    "resnetrs50": _preset((3, 4, 6, 3), **_RS),
    "resnetrs101": _preset((3, 4, 23, 3), **_RS),
    "resnetrs152": _preset((3, 8, 36, 3), **_RS),
    "resnetrs200": _preset((3, 24, 36, 3), **_RS),
    "resnetrs270": _preset((4, 29, 53, 4), **_RS),
    "resnetrs350": _preset((4, 36, 72, 4), **_RS),
    "resnetrs420": _preset((4, 44, 87, 4), **_RS),
}

# -- blocks


class ResNeXtBlock(nn.Module):
    """A residual branch, squeeze-and-excitation where asked for, a shortcut; ReLU after the sum.

    ``closed=False`` leaves out the branch's last norm and the ReLU.
    """

    def __init__(
        self, residual: nn.Module, shortcut: nn.Module, se: nn.Module | None, drop: float, closed: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut
        self.se = se
        self.drop = StochasticDepth(drop)
        self.activation = new_activation(ActivationType.RELU) if closed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.residual(x)
        if self.se is not None:
            out = self.se(out)
        return self.activation(add_shortcut(self.drop(out), self.shortcut(x)))


AntiAlias = Literal["none", "avg", "blur"]


def basic(
    conv: ConvFactory, width_in: int, width: int, stride: int, closed: bool, anti_alias: AntiAlias
) -> nn.Sequential:
    """3x3, 3x3."""
    return sequential(
        a=strided(conv, width_in, width, stride, 1, anti_alias),
        b=conv(width, width, 3, norm=closed, act=False),
    )


def bottleneck(
    conv: ConvFactory,
    width_in: int,
    inner: int,
    width: int,
    stride: int,
    groups: int,
    closed: bool,
    anti_alias: AntiAlias,
) -> nn.Sequential:
    """1x1, grouped 3x3, 1x1."""
    return sequential(
        a=conv(width_in, inner, 1),
        b=strided(conv, inner, inner, stride, groups, anti_alias),
        c=conv(inner, width, 1, norm=closed, act=False),
    )


def strided(
    conv: ConvFactory, width_in: int, width: int, stride: int, groups: int, anti_alias: AntiAlias
) -> ConvNormAct:
    """3x3, whose stride a pooling may take over."""
    if stride == 1 or anti_alias == "none":
        return conv(width_in, width, 3, stride, groups)
    layers = conv(width_in, width, 3, 1, groups)
    layers.add_module("pool", nn.AvgPool2d(stride) if anti_alias == "avg" else BlurPool2d(width))
    return layers


def make_stem(conv: ConvFactory, c: ResNeXtConfig) -> tuple[nn.Module, int]:
    """The stem, and its channels."""
    if c.small_input:
        return conv.stem(c.in_channels, c.init_planes, 3, 1, pool=False), c.init_planes
    if c.stem == "conv7":
        stem: nn.Sequential = conv.stem(c.in_channels, c.init_planes, 7, 2, pool=False)
        width = c.init_planes
    else:
        first, width = c.stem_width if c.stem == "deep" else c.stem_width // 4 * 3, 2 * c.stem_width
        a, b = conv(c.in_channels, first, 3, 2), conv(first, c.stem_width, 3)
        stem = sequential(a=a, b=b, **dict(conv(c.stem_width, width, 3).named_children()))
    stem.add_module("pool", _stem_pool(conv, c, width))
    return stem, width


def _stem_pool(conv: ConvFactory, c: ResNeXtConfig, width: int) -> nn.Module:
    if c.stem_pool == "conv":
        return strided(conv, width, width, 2, 1, c.anti_alias)
    if c.anti_alias == "avg":
        return nn.AvgPool2d(2)
    if c.anti_alias == "blur":
        return nn.Sequential(nn.MaxPool2d(3, 1, 1), BlurPool2d(width))
    return nn.MaxPool2d(3, 2, 1)


def make_shortcut(conv: ConvFactory, width_in: int, width: int, stride: int, average: bool) -> nn.Module:
    """What a shortcut does with an input of another shape; nothing where there is none."""
    if stride == 1 and width_in == width:
        return nn.Identity()
    if not average:
        return conv(width_in, width, 1, stride, act=False)
    pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    return sequential(pool=pool, project=conv(width_in, width, 1, act=False))


# -- model


@register_model("resnext", PRESETS)
class ResNeXt(ClassyModel):
    """A stem and stages of residual blocks, each stage twice as wide and half as high.

    Shape: (n, in_channels, h, w) to (n, init_planes * reduction * 8, h / 32, w / 32), with four
    stages; with ``small_input`` to h / 8.
    """

    config_class: ClassVar[type[ModelConfig]] = ResNeXtConfig
    layouts = LAYOUTS
    shapes = SHAPES
    aliases = {"initial_block": "stem", "blocks": END}
    classy_version = 0.2
    config: ResNeXtConfig

    def __init__(self, config: ResNeXtConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        c = self.config
        groups = 32 if c.norm == "group" else None
        conv = ConvFactory(ActivationType.RELU, c.bn_epsilon, c.bn_momentum, groups_in_norms=groups)
        stem, width_in = make_stem(conv, c)
        self.add_step("stem", stem, width_in)
        drops = iter(depth_rates(c.stochastic_depth, sum(c.num_blocks)))
        last = [s for s, depth in enumerate(c.num_blocks) if depth][-1:]
        for s, depth in enumerate(c.num_blocks):
            for i in range(depth):
                closed = c.final_bn_relu or [s] != last or i < depth - 1
                stride = 2 if s > 0 and i == 0 else 1
                width = c.init_planes * 2**s * c.reduction
                block = self._block(conv, s, width_in, width, stride, next(drops), closed)
                self.add_step(f"block{s}-{i}", block, width)
                width_in = width
        self.add_step(END, nn.Identity(), width_in)
        self._initialize()

    def _block(
        self, conv: ConvFactory, s: int, width_in: int, width: int, stride: int, drop: float, closed: bool
    ) -> ResNeXtBlock:
        c = self.config
        group_width, groups = c.base_width_and_cardinality or (c.init_planes, 1)
        if c.is_basic:
            residual = basic(conv, width_in, width, stride, closed, c.anti_alias)
        else:
            inner = group_width * 2**s * groups
            residual = bottleneck(conv, width_in, inner, width, stride, groups, closed, c.anti_alias)
        shortcut = make_shortcut(conv, width_in, width, stride, c.shortcut == "avg")
        se: nn.Module | None = SqueezeAndExcitationLayer(width, c.se_reduction_ratio) if c.use_se else None
        if c.use_eca:
            se = EfficientChannelAttention(width)
        return ResNeXtBlock(residual, shortcut, se, drop, closed)

    def _initialize(self) -> None:
        kaiming_fan_out(self)
        if self.config.zero_init_bn_residuals:
            for name, parameter in self.named_parameters():
                if name.endswith(f"residual.{'b' if self.config.is_basic else 'c'}.norm.weight"):
                    nn.init.zeros_(parameter)

    @property
    def input_shape(self) -> tuple[int, ...]:
        size = 32 if self.config.small_input else 224
        return (self.config.in_channels, size, size)
