"""EfficientNet: one network, scaled in width, depth and resolution together (Tan & Le,
"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019).

Blocks are named ``block{stage}-{index}``, both counted from 0; ``block{stage}`` is the end of a
stage. Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AliasChoices, Field, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from classy_vision.config import Config, PositiveFloat, PositiveInt, Probability
from classy_vision.layers.activation import ActivationType
from classy_vision.layers.conv_norm_act import ConvFactory
from classy_vision.layers.initialize import fan_out_normal
from classy_vision.layers.residual import add_shortcut
from classy_vision.layers.squeeze_and_excitation import SqueezeAndExcitationLayer
from classy_vision.layers.stochastic_depth import StochasticDepth, efficientnet_rates
from classy_vision.models.classy_model import ClassyModel, register_model
from classy_vision.models.efficientnet.keys import LAYOUTS, WITHOUT_CLASSIFIER
from classy_vision.models.efficientnet.shapes import make_shapes
from classy_vision.trunk.trunk import END, ModelConfig
from classy_vision.weights.key_map import KeyMap

# -- config


class EfficientNetParams(Config):
    """A scale of the network.

    Attributes:
        width_coefficient: of channels.
        depth_coefficient: of blocks per stage.
        resolution: height and width of the usual input.
        dropout_rate: before the default head.
    """

    width_coefficient: PositiveFloat
    depth_coefficient: PositiveFloat
    resolution: PositiveInt
    dropout_rate: Probability


# Table 1 of the paper, and its repository: width, depth, resolution, dropout.
_SCALES: dict[str, tuple[float, float, int, float]] = {
    "B0": (1.0, 1.0, 224, 0.2),
    "B1": (1.0, 1.1, 240, 0.2),
    "B2": (1.1, 1.2, 260, 0.3),
    "B3": (1.2, 1.4, 300, 0.3),
    "B4": (1.4, 1.8, 380, 0.4),
    "B5": (1.6, 2.2, 456, 0.4),
    "B6": (1.8, 2.6, 528, 0.5),
    "B7": (2.0, 3.1, 600, 0.5),
    "B8": (2.2, 3.6, 672, 0.5),
}
MODEL_PARAMS = {
    name: EfficientNetParams(width_coefficient=w, depth_coefficient=d, resolution=r, dropout_rate=p)
    for name, (w, d, r, p) in _SCALES.items()
}
PRESETS = {f"efficientnet_{name.lower()}": {"model_name": name} for name in MODEL_PARAMS}


class BlockParams(NamedTuple):
    """One stage of the network at scale 1."""

    repeats: int
    kernel: int
    stride: int
    expand_ratio: int
    filters: int


STEM_FILTERS, HEAD_FILTERS = 32, 1280
BLOCK_PARAMS = (
    BlockParams(1, 3, 1, 1, 16),
    BlockParams(2, 3, 2, 6, 24),
    BlockParams(2, 5, 2, 6, 40),
    BlockParams(3, 3, 2, 6, 80),
    BlockParams(3, 5, 1, 6, 112),
    BlockParams(4, 5, 2, 6, 192),
    BlockParams(1, 3, 1, 6, 320),
)
SE_RATIO = 0.25


class EfficientNetConfig(ModelConfig):
    """An EfficientNet.

    Attributes:
        model_name: "B0" to "B8"; it wins over ``model_params``.
        model_params: a scale of one's own.
        bn_epsilon, bn_momentum: of all batch norms.
        width_divisor: channels are multiples of it.
        min_width: the least number of channels; ``width_divisor`` where it is None.
        stochastic_depth: called ``drop_connect_rate`` in the original. Block i of n has this rate
            times i / n, as in the original, timm and torchvision, so the last one has a little less.
        use_se: squeeze-and-excitation.
        padding: "symmetric", or "same" as TensorFlow pads, for weights trained with it.
    """

    model_name: Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8"] | None = None
    model_params: EfficientNetParams | None = None
    bn_epsilon: PositiveFloat = 1e-3
    bn_momentum: Annotated[float, Field(ge=0, le=1)] = 0.01
    width_divisor: PositiveInt = 8
    min_width: PositiveInt | None = None
    stochastic_depth: Probability = Field(
        0.2, validation_alias=AliasChoices("stochastic_depth", "drop_connect_rate")
    )
    use_se: bool = True
    padding: Literal["symmetric", "same"] = "symmetric"

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if self.model_name is None and self.model_params is None:
            raise ValueError("give model_name, such as 'B0', or model_params")
        return self

    @property
    def scale(self) -> EfficientNetParams:
        if self.model_name is not None:
            return MODEL_PARAMS[self.model_name]
        assert self.model_params is not None
        return self.model_params

    def width(self, filters: int) -> int:
        """``filters`` at this scale, as a multiple of the divisor and at least 90 % of it."""
        scaled = filters * self.scale.width_coefficient
        divisor = self.width_divisor
        rounded = max(self.min_width or divisor, int(scaled + divisor / 2) // divisor * divisor)
        return rounded + divisor if rounded < 0.9 * scaled else rounded

    def depth(self, repeats: int) -> int:
        """Blocks of a stage at this scale."""
        return ceil(self.scale.depth_coefficient * repeats)


# -- blocks


class MBConvBlock(nn.Module):
    """1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1 projection; shortcut.

    Args:
        conv: makes the convolutions.
        width_in, width: channels in and out.
        stage: kernel and expansion.
        stride: of the depthwise convolution.
        use_se: with squeeze-and-excitation, its width from ``width_in``.
        drop: rate of stochastic depth.
    """

    def __init__(
        self,
        conv: ConvFactory,
        width_in: int,
        width: int,
        stage: BlockParams,
        stride: int,
        use_se: bool,
        drop: float,
    ) -> None:
        super().__init__()
        inner = width_in * stage.expand_ratio
        self.expand = conv(width_in, inner, 1) if stage.expand_ratio != 1 else nn.Identity()
        self.depthwise = conv(inner, inner, stage.kernel, stride, groups=inner)
        squeeze = max(1, int(width_in * SE_RATIO))
        self.se = SqueezeAndExcitationLayer(inner, None, squeeze, conv.act()) if use_se else nn.Identity()
        self.project = conv(inner, width, 1, act=False)
        self.drop = StochasticDepth(drop)
        self.same_shape = stride == 1 and width_in == width

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.se(self.depthwise(self.expand(x))))
        return add_shortcut(self.drop(out), x) if self.same_shape else out


# -- model


@register_model("efficientnet", PRESETS)
class EfficientNet(ClassyModel):
    """A stem, seven stages of MBConv blocks, and a 1x1 convolution.

    Without heads in the config it has one for 1000 classes, or ``num_classes``.

    Shape: (n, in_channels, h, w) to (n, c, h / 32, w / 32).
    """

    config_class: ClassVar[type[ModelConfig]] = EfficientNetConfig
    layouts = LAYOUTS
    shapes = make_shapes([stage.repeats for stage in BLOCK_PARAMS], HEAD_FILTERS)
    default_num_classes = 1000
    config: EfficientNetConfig

    def __init__(self, config: EfficientNetConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        c = self.config
        conv = ConvFactory(ActivationType.SILU, c.bn_epsilon, c.bn_momentum, c.padding == "same")
        before = c.width(STEM_FILTERS)
        self.add_step("stem", conv(c.in_channels, before, 3, 2), before)
        depths = [c.depth(stage.repeats) for stage in BLOCK_PARAMS]
        drops = iter(efficientnet_rates(c.stochastic_depth, sum(depths)))
        for s, (stage, depth) in enumerate(zip(BLOCK_PARAMS, depths)):
            for i in range(depth):
                width, stride = c.width(stage.filters), stage.stride if i == 0 else 1
                block = MBConvBlock(conv, before, width, stage, stride, c.use_se, next(drops))
                self.add_step(f"block{s}-{i}", block, width)
                before = width
        self.add_step(END, conv(before, c.width(HEAD_FILTERS), 1), c.width(HEAD_FILTERS))
        self.aliases = {"blocks": list(self.blocks)[-1]}
        fan_out_normal(self)

    @classmethod
    def default_head(cls, config: ModelConfig) -> dict[str, Any]:
        assert isinstance(config, EfficientNetConfig)
        return {"name": "fully_connected", "dropout_rate": config.scale.dropout_rate}

    @property
    def input_shape(self) -> tuple[int, ...]:
        resolution = self.config.scale.resolution
        return (self.config.in_channels, resolution, resolution)

    def key_map(self) -> KeyMap:
        # The original kept a classifier in the trunk, beside whatever heads there were.
        own = any(head.unique_id == "default_head" for head in self.get_heads().get(END, []))
        layout = LAYOUTS["classy_vision"] if own else WITHOUT_CLASSIFIER
        return layout.key_map("ClassyVision", self.config, ())
