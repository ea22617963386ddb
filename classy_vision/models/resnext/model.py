"""ResNet and ResNeXt (He et al., "Deep Residual Learning for Image Recognition", 2016; Xie et al.,
"Aggregated Residual Transformations for Deep Neural Networks", 2017), with the stride on the 3x3.

Blocks are named ``block{stage}-{index}``, both counted from 0; ``block{stage}`` is the end of a
stage. Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from classy_vision.config import NonNegativeInt, PositiveFloat, PositiveInt
from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.layers.conv_norm_act import ConvFactory, sequential
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
        bn_epsilon, bn_momentum: of all batch norms.
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
    bn_epsilon: PositiveFloat = 1e-5
    bn_momentum: Annotated[float, Field(ge=0, le=1)] = 0.1

    @model_validator(mode="before")
    @classmethod
    def _basic_layers_do_not_reduce(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("basic_layer") is True and "reduction" not in data:
            return {**data, "reduction": 1}
        return data

    @property
    def is_basic(self) -> bool:
        """Two-layer blocks: asked for, or because the input is small."""
        return self.basic_layer or self.small_input


def _preset(num_blocks: tuple[int, ...], groups: tuple[int, int] | None = None, **more: Any) -> dict[str, Any]:
    row = {"num_blocks": num_blocks, "zero_init_bn_residuals": True, **more}
    return row if groups is None else {**row, "base_width_and_cardinality": groups}


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


def basic(conv: ConvFactory, width_in: int, width: int, stride: int, closed: bool) -> nn.Sequential:
    """3x3, 3x3."""
    return sequential(
        a=conv(width_in, width, 3, stride),
        b=conv(width, width, 3, norm=closed, act=False),
    )


def bottleneck(
    conv: ConvFactory, width_in: int, inner: int, width: int, stride: int, groups: int, closed: bool
) -> nn.Sequential:
    """1x1, grouped 3x3, 1x1."""
    return sequential(
        a=conv(width_in, inner, 1),
        b=conv(inner, inner, 3, stride, groups),
        c=conv(inner, width, 1, norm=closed, act=False),
    )


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
        conv = ConvFactory(ActivationType.RELU, c.bn_epsilon, c.bn_momentum)
        kernel, stride, pool = (3, 1, False) if c.small_input else (7, 2, True)
        self.add_step("stem", conv.stem(c.in_channels, c.init_planes, kernel, stride, pool), c.init_planes)
        drops = iter(depth_rates(c.stochastic_depth, sum(c.num_blocks)))
        last = [s for s, depth in enumerate(c.num_blocks) if depth][-1:]
        width_in = c.init_planes
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
            residual = basic(conv, width_in, width, stride, closed)
        else:
            inner = group_width * 2**s * groups
            residual = bottleneck(conv, width_in, inner, width, stride, groups, closed)
        shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            shortcut = conv(width_in, width, 1, stride, act=False)
        se = SqueezeAndExcitationLayer(width, c.se_reduction_ratio) if c.use_se else None
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
