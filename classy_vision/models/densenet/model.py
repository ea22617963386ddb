"""DenseNet: every layer reads all before it (Huang et al., "Densely Connected Convolutional
Networks", 2017), with bottlenecks and compression (DenseNet-BC).

Blocks are named ``block{stage}-{index}`` and ``transition-{stage}``, counted from 0;
``block_{stage}`` is the end of a stage. Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from classy_vision.config import PositiveFloat, PositiveInt
from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.layers.conv_norm_act import ConvFactory
from classy_vision.layers.initialize import fan_out_normal
from classy_vision.layers.squeeze_and_excitation import SqueezeAndExcitationLayer
from classy_vision.layers.stochastic_depth import StochasticDepth, depth_rates
from classy_vision.models.classy_model import ClassyModel, register_model
from classy_vision.models.densenet.keys import LAYOUTS
from classy_vision.models.densenet.norm_relu_conv import norm_relu_conv
from classy_vision.models.densenet.shapes import SHAPES
from classy_vision.models.densenet.storage import append
from classy_vision.trunk.trunk import END, ModelConfig

# -- config


class DenseNetConfig(ModelConfig):
    """A DenseNet.

    Attributes:
        num_blocks: layers per stage.
        init_planes: channels of the stem.
        growth_rate: channels that each layer adds.
        expansion: width of a layer's bottleneck, as a multiple of ``growth_rate``.
        small_input: 3x3 stem without stride or pooling, as for CIFAR.
        final_bn_relu: norm and activation at the end of the trunk.
        use_se, se_reduction_ratio: squeeze-and-excitation on what a layer adds.
        bn_epsilon, bn_momentum: of all batch norms.
    """

    num_blocks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    init_planes: PositiveInt = 64
    growth_rate: PositiveInt = 32
    expansion: PositiveInt = 4
    small_input: bool = False
    final_bn_relu: bool = True
    use_se: bool = False
    se_reduction_ratio: PositiveInt = 16
    bn_epsilon: PositiveFloat = 1e-5
    bn_momentum: Annotated[float, Field(ge=0, le=1)] = 0.1


# Table 1 of the paper; 161 is wider.
PRESETS: dict[str, dict[str, Any]] = {
    "densenet121": {"num_blocks": (6, 12, 24, 16)},
    "densenet161": {"num_blocks": (6, 12, 36, 24), "init_planes": 96, "growth_rate": 48},
    "densenet169": {"num_blocks": (6, 12, 32, 32)},
    "densenet201": {"num_blocks": (6, 12, 48, 32)},
}

# -- blocks


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3; squeeze-and-excitation where asked for; appended to the input.

    Shape: (n, c, h, w) to (n, c + growth_rate, h, w).
    """

    def __init__(self, c: DenseNetConfig, channels: int, capacity: int, drop: float) -> None:
        super().__init__()
        self.capacity = capacity
        inner = c.expansion * c.growth_rate
        self.norm1 = nn.BatchNorm2d(channels, c.bn_epsilon, c.bn_momentum)
        self.act1 = new_activation(ActivationType.RELU)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner, c.bn_epsilon, c.bn_momentum)
        self.act2 = new_activation(ActivationType.RELU)
        self.conv2 = nn.Conv2d(inner, c.growth_rate, 3, padding=1, bias=False)
        self.se = SqueezeAndExcitationLayer(c.growth_rate, c.se_reduction_ratio) if c.use_se else None
        self.drop = StochasticDepth(drop) if drop else None

    def forward(self, x: Tensor) -> Tensor:
        new = norm_relu_conv(x, self.norm1, self.act1, self.conv1)
        new = norm_relu_conv(new, self.norm2, self.act2, self.conv2)
        if self.se is not None:
            new = self.se(new)
        if self.drop is not None:
            new = self.drop(new)
        return append(x, new, self.capacity)


class Transition(nn.Module):
    """Norm, ReLU, 1x1 to half the channels, 2x2 average pool.

    Shape: (n, c, h, w) to (n, c / 2, h / 2, w / 2).
    """

    def __init__(self, c: DenseNetConfig, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, c.bn_epsilon, c.bn_momentum)
        self.act = new_activation(ActivationType.RELU)
        self.conv = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(norm_relu_conv(x, self.norm, self.act, self.conv))


class FinalNorm(nn.Sequential):
    """Norm, ReLU."""

    def __init__(self, c: DenseNetConfig, channels: int) -> None:
        super().__init__()
        self.add_module("norm", nn.BatchNorm2d(channels, c.bn_epsilon, c.bn_momentum))
        self.add_module("act", new_activation(ActivationType.RELU))


# -- model


@register_model("densenet", PRESETS)
class DenseNet(ClassyModel):
    """A stem, stages of dense layers with transitions between them, and a norm.

    The layers of a stage share memory, so that it grows linearly with their number: clone a
    feature before changing it in place.

    Shape: (n, in_channels, h, w) to (n, c, h / 32, w / 32), with four stages; with
    ``small_input`` to h / 8.
    """

    config_class: ClassVar[type[ModelConfig]] = DenseNetConfig
    layouts = LAYOUTS
    names_stages = False
    ends_of_layers = ("transition",)
    shapes = SHAPES
    config: DenseNetConfig

    def __init__(self, config: DenseNetConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        c = self.config
        conv = ConvFactory(ActivationType.RELU, c.bn_epsilon, c.bn_momentum)
        kernel, stride, pool = (3, 1, False) if c.small_input else (7, 2, True)
        self.add_step("stem", conv.stem(c.in_channels, c.init_planes, kernel, stride, pool), c.init_planes)
        drops = iter(depth_rates(c.stochastic_depth, sum(c.num_blocks)))
        channels = c.init_planes
        for s, depth in enumerate(c.num_blocks):
            capacity = channels + depth * c.growth_rate
            for i in range(depth):
                layer = DenseLayer(c, channels, capacity, next(drops))
                channels += c.growth_rate
                self.add_step(f"block{s}-{i}", layer, channels)
            if s < len(c.num_blocks) - 1:
                transition = Transition(c, channels)
                channels //= 2
                self.add_step(f"transition-{s}", transition, channels)
        self.add_step(END, FinalNorm(c, channels) if c.final_bn_relu else nn.Identity(), channels)
        ends = {f"block_{s}": f"block{s}-{depth - 1}" for s, depth in enumerate(c.num_blocks)}
        self.aliases = {"initial_block": "stem", **ends, "features": END}
        fan_out_normal(self)

    @property
    def input_shape(self) -> tuple[int, ...]:
        size = 32 if self.config.small_input else 224
        return (self.config.in_channels, size, size)
