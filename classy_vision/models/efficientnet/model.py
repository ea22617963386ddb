"""EfficientNet: one network, scaled in width, depth and resolution together (Tan & Le,
"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019), and the networks that are
made of the same blocks: EfficientNetV2, MobileNets, MnasNet, MixNet, FBNet, LCNet, TinyNet.

Blocks are named ``block{stage}-{index}``, both counted from 0; ``block{stage}`` is the end of a
stage. Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import ceil
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator
from torch import nn
from typing_extensions import Self

from classy_vision.config import (
    Config,
    ConfigError,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    unknown,
)
from classy_vision.layers.activation import ActivationType
from classy_vision.layers.conv_norm_act import ConvFactory
from classy_vision.layers.initialize import fan_out_normal
from classy_vision.layers.stochastic_depth import efficientnet_rates
from classy_vision.models.classy_model import ClassyModel, register_model
from classy_vision.models.efficientnet.blocks import BlockFactory, BlockParams, SqueezeParams, round_width
from classy_vision.models.efficientnet.keys import LAYOUTS, WITHOUT_CLASSIFIER, Kind
from classy_vision.models.efficientnet.networks import NETWORKS, PRESETS, SCALES
from classy_vision.models.efficientnet.shapes import SHAPES
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


def _scale(width: float, depth: float, resolution: int, dropout: float) -> EfficientNetParams:
    return EfficientNetParams(
        width_coefficient=width, depth_coefficient=depth, resolution=resolution, dropout_rate=dropout
    )


MODEL_PARAMS = {name: _scale(*row) for name, row in SCALES.items()}
UNSCALED = _scale(1.0, 1.0, 224, 0.2)
STEM_FILTERS, HEAD_FILTERS = 32, 1280

Stages = tuple[tuple[BlockParams, ...], ...]


@cache
def stages_of(network: str) -> Stages:
    """The rows of a network that has a name."""
    return _parse_stages(NETWORKS[network])


def _parse_stages(stages: Any) -> Stages:
    if not isinstance(stages, (list, tuple)) or not stages:
        raise ConfigError(f"the name of a network or a list of stages is needed: {', '.join(NETWORKS)}")
    found = []
    for s, stage in enumerate(stages):
        rows = stage if isinstance(stage, (list, tuple)) else [stage]
        if not rows or not all(isinstance(row, (Mapping, BlockParams)) for row in rows):
            raise ConfigError(f"stage {s} must be a list of mappings, each with a block and channels")
        found.append(
            tuple(r if isinstance(r, BlockParams) else BlockParams.parse(r, f"stage {s}") for r in rows)
        )
    return tuple(found)


BLOCK_PARAMS = stages_of("efficientnet")
"""The rows of EfficientNet itself."""


class HiddenParams(Config):
    """A layer of the default head between pooling and classifier.

    Attributes:
        width: of the layer.
        bias: whether it has one.
        norm: a batch norm after it.
    """

    width: PositiveInt
    bias: bool = True
    norm: bool = False


class EfficientNetConfig(ModelConfig):
    """An EfficientNet, or another network of its blocks.

    Attributes:
        model_name: "B0" to "B8"; it wins over ``model_params``.
        model_params: a scale of one's own.
        stages: the name of a network, or its stages: lists of rows, each with ``block`` and ``channels``.
        stem_width: channels of the stem; by default 32 at this scale.
        head_width: channels of the 1x1 convolution at the end; 0 leaves it out. By default 1280 at this scale.
        hidden: a layer between pooling and classifier in the default head.
        activation: of all convolutions but those whose row has another.
        bn_epsilon, bn_momentum: of all batch norms.
        width_divisor: channels are multiples of it.
        min_width: the least number of channels; ``width_divisor`` where it is None.
        stochastic_depth: called ``drop_connect_rate`` in the original. Block i of n has this rate
            times i / n, as in the original, timm and torchvision, so the last one has a little less.
        use_se: squeeze-and-excitation.
        squeeze: how squeeze-and-excitation is done.
        layer_scale: where learned scales of "universal" and "attention" blocks start; None leaves them out.
        anti_alias: "avg" lets average pooling take over the strides of 3x3 and larger convolutions in blocks.
        padding: "symmetric", or "same" as TensorFlow pads, for weights trained with it.
    """

    model_name: Literal["B0", "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8"] | None = None
    model_params: EfficientNetParams | None = None
    stages: str | Stages = "efficientnet"
    stem_width: PositiveInt | None = None
    head_width: NonNegativeInt | None = None
    hidden: HiddenParams | None = None
    activation: Annotated[ActivationType, Field(strict=False)] = ActivationType.SILU
    bn_epsilon: PositiveFloat = 1e-3
    bn_momentum: Annotated[float, Field(ge=0, le=1)] = 0.01
    width_divisor: PositiveInt = 8
    min_width: PositiveInt | None = None
    stochastic_depth: Probability = Field(
        0.2, validation_alias=AliasChoices("stochastic_depth", "drop_connect_rate")
    )
    use_se: bool = True
    squeeze: SqueezeParams = SqueezeParams()
    layer_scale: PositiveFloat | None = None
    anti_alias: Literal["none", "avg"] = "none"
    padding: Literal["symmetric", "same"] = "symmetric"

    @field_validator("stages", mode="before")
    @classmethod
    def _read_stages(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return _parse_stages(value)
        if value not in NETWORKS:
            raise unknown("network", value, NETWORKS)
        return value

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if self.model_name is None and self.model_params is None and self.stages == "efficientnet":
            raise ValueError("give model_name, such as 'B0', model_params, or stages")
        return self

    @property
    def scale(self) -> EfficientNetParams:
        if self.model_name is not None:
            return MODEL_PARAMS[self.model_name]
        return self.model_params or UNSCALED

    @property
    def rows(self) -> Stages:
        """The stages, whether they are named or given."""
        return stages_of(self.stages) if isinstance(self.stages, str) else self.stages

    @property
    def kinds(self) -> list[list[Kind]]:
        """What keys depend on, by stage and block."""
        return [
            [_kind(row, self) for row in stage for _ in range(self.depth(row.repeats))] for stage in self.rows
        ]

    def width(self, filters: int) -> int:
        """``filters`` at this scale, as a multiple of the divisor and at least 90 % of it."""
        return round_width(filters * self.scale.width_coefficient, self.width_divisor, self.min_width)

    def depth(self, repeats: int) -> int:
        """Blocks of a row at this scale."""
        return ceil(self.scale.depth_coefficient * repeats)


def _kind(row: BlockParams, config: EfficientNetConfig) -> Kind:
    return Kind(row.block, config.use_se and row.squeeze > 0, row.groups)


# -- model


@register_model("efficientnet", PRESETS)
class EfficientNet(ClassyModel):
    """A stem, stages of blocks, and a 1x1 convolution.

    Without heads in the config it has one for 1000 classes, or ``num_classes``.

    Shape: (n, in_channels, h, w) to (n, c, h / 32, w / 32), with the strides of the papers.
    """

    config_class: ClassVar[type[ModelConfig]] = EfficientNetConfig
    layouts = LAYOUTS
    shapes = SHAPES
    default_num_classes = 1000
    config: EfficientNetConfig

    def __init__(self, config: EfficientNetConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        c = self.config
        conv = ConvFactory(c.activation, c.bn_epsilon, c.bn_momentum, c.padding == "same")
        width = c.stem_width or c.width(STEM_FILTERS)
        self.add_step("stem", conv(c.in_channels, width, 3, 2), width)
        width = self._add_blocks(conv, width)
        end = c.width(HEAD_FILTERS) if c.head_width is None else c.head_width
        self.add_step(END, conv(width, end, 1) if end else nn.Identity(), end or width)
        self.aliases = {"blocks": list(self.blocks)[-1]}
        fan_out_normal(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:  # in squeeze-and-excitation
                nn.init.zeros_(module.bias)

    def _add_blocks(self, conv: ConvFactory, width_in: int) -> int:
        """Adds the blocks, and returns the channels of the last."""
        c = self.config
        squeeze = c.squeeze if c.use_se else None
        make = BlockFactory(conv, squeeze, c.anti_alias == "avg", c.layer_scale)
        drops = iter(efficientnet_rates(c.stochastic_depth, sum(map(len, c.kinds))))
        for s, rows in enumerate(c.rows):
            blocks = [(row, i == 0) for row in rows for i in range(c.depth(row.repeats))]
            for i, (row, is_first) in enumerate(blocks):
                width, stride = c.width(row.channels), row.stride if is_first else 1
                self.add_step(f"block{s}-{i}", make(row, width_in, width, stride, next(drops)), width)
                width_in = width
        return width_in

    @classmethod
    def default_head(cls, config: ModelConfig) -> dict[str, Any]:
        assert isinstance(config, EfficientNetConfig)
        dropout, hidden = config.scale.dropout_rate, config.hidden
        if hidden is None:
            return {"name": "fully_connected", "dropout_rate": dropout}
        layer = {"hidden_dim": hidden.width, "bias": hidden.bias, "norm": hidden.norm}
        return {
            "name": "mobilenet_head",
            **layer,
            "activation": config.activation.value,
            "dropout_rate": dropout,
        }

    @property
    def input_shape(self) -> tuple[int, ...]:
        resolution = self.config.scale.resolution
        return (self.config.in_channels, resolution, resolution)

    def key_map(self) -> KeyMap:
        # The original kept a classifier in the trunk, beside whatever heads there were.
        own = any(head.unique_id == "default_head" for head in self.get_heads().get(END, []))
        layout = LAYOUTS["classy_vision"] if own and self.config.hidden is None else WITHOUT_CLASSIFIER
        return layout.key_map("ClassyVision", self.config, ())
