"""Vision transformer (Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021), optionally with a
convolutional stem (Xiao et al., "Early Convolutions Help Transformers See Better", 2021).

Blocks are named ``layer_{index}``, counted from 0, and ``ln``, the norm behind them: tokens
(n, s, d), a class token first where there is one. ``trunk_output`` is one vector per image, (n, d).
Axes: n batch, s tokens, d width, h height, w width.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.fx
from pydantic import field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from typing_extensions import Self

from classy_vision.config import Config, ConfigError, PositiveFloat, PositiveInt, Probability
from classy_vision.layers.activation import ActivationType
from classy_vision.layers.conv_norm_act import Bricks, chain
from classy_vision.layers.lecun_normal_init import lecun_normal_init
from classy_vision.layers.stochastic_depth import StochasticDepth, depth_rates
from classy_vision.layers.transformer import MLP, Attention
from classy_vision.models.classy_model import ClassyModel, register_model
from classy_vision.models.removed import names_gone
from classy_vision.models.trunk import ModelConfig
from classy_vision.weights.key_map import SWAP_FIRST_AXES, KeyMap, Row

torch.fx.wrap("resized")

# -- config


class ConvStemLayer(Config):
    """One convolution of a convolutional stem: 3x3 or another odd kernel, norm, ReLU."""

    kernel: PositiveInt
    stride: PositiveInt
    out_channels: PositiveInt

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"must be odd, such as {kernel + 1}")
        return kernel


class VisionTransformerConfig(ModelConfig):
    """A vision transformer.

    Attributes:
        image_size: height and width for which positions are learned; others are interpolated.
        patch_size: height and width of a token, in pixels.
        num_layers, num_heads, hidden_dim, mlp_dim: of the encoder.
        dropout_rate: behind embeddings, attention and each linear layer of the MLP.
        attention_dropout_rate: on attention weights.
        classifier: "token", or "gap", the mean over all tokens.
        conv_stem_layers: convolutions instead of one patch embedding; their strides multiply to
            ``patch_size``.
        layer_norm_eps: of all norms.
    """

    image_size: PositiveInt
    patch_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    hidden_dim: PositiveInt
    mlp_dim: PositiveInt
    dropout_rate: Probability = 0.0
    attention_dropout_rate: Probability = 0.0
    classifier: Literal["token", "gap"] = "token"
    conv_stem_layers: tuple[ConvStemLayer, ...] | None = None
    layer_norm_eps: PositiveFloat = 1e-6

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.image_size % self.patch_size:
            fit = max(1, round(self.image_size / self.patch_size)) * self.patch_size
            raise ValueError(f"image_size = {self.image_size} must be a multiple of patch_size, as {fit}")
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads = {self.num_heads} must divide hidden_dim = {self.hidden_dim}")
        if self.conv_stem_layers is not None:
            stride = torch.Size([layer.stride for layer in self.conv_stem_layers]).numel()
            if not self.conv_stem_layers or stride != self.patch_size:
                raise ValueError(
                    f"the strides of conv_stem_layers multiply to {stride}, not to patch_size = "
                    f"{self.patch_size}"
                )
        return self

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches."""
        return 1 if self.classifier == "token" else 0


_SIZES = {  # table 1: patch size, layers, width, MLP width, heads
    "vit_b_32": (32, 12, 768, 3072, 12),
    "vit_b_16": (16, 12, 768, 3072, 12),
    "vit_l_32": (32, 24, 1024, 4096, 16),
    "vit_l_16": (16, 24, 1024, 4096, 16),
    "vit_h_14": (14, 32, 1280, 5120, 16),
}
PRESETS: dict[str, dict[str, Any]] = {
    name: {
        "image_size": 224,
        "patch_size": patch,
        "num_layers": layers,
        "hidden_dim": width,
        "mlp_dim": mlp,
        "num_heads": heads,
    }
    for name, (patch, layers, width, mlp, heads) in _SIZES.items()
}

# -- blocks


class EncoderLayer(nn.Module):
    """Norm, attention; norm, MLP; each added to its input. Shape: (n, s, d), unchanged."""

    def __init__(self, c: VisionTransformerConfig, drop: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(c.hidden_dim, c.layer_norm_eps)
        self.attn = Attention(c.hidden_dim, c.num_heads, c.attention_dropout_rate)
        self.dropout = nn.Dropout(c.dropout_rate)
        self.norm2 = nn.LayerNorm(c.hidden_dim, c.layer_norm_eps)
        self.mlp = MLP(c.hidden_dim, c.mlp_dim, c.dropout_rate)
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.dropout(self.attn(self.norm1(x))))
        return x + self.drop(self.mlp(self.norm2(x)))


class Tokens(nn.Module):
    """Patches as tokens, a class token before them where there is one, and their positions.

    Shape: (n, c, h, w) to (n, s, d).
    """

    def __init__(self, c: VisionTransformerConfig) -> None:
        super().__init__()
        self.prefix = c.prefix
        self.grid = c.image_size // c.patch_size
        self.patch_size = c.patch_size
        self.class_token = nn.Parameter(torch.zeros(1, 1, c.hidden_dim)) if c.prefix else None
        self.proj = _patches(c)
        self.positions = nn.Parameter(torch.empty(1, c.prefix + self.grid**2, c.hidden_dim))
        nn.init.normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(c.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2] // self.patch_size, x.shape[3] // self.patch_size
        x = self.proj(x).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1)
        return self.dropout(x + resized(self.positions, self.prefix, (self.grid, self.grid), (h, w)))


def _patches(c: VisionTransformerConfig) -> nn.Module:
    if c.conv_stem_layers is None:
        conv = nn.Conv2d(c.in_channels, c.hidden_dim, c.patch_size, c.patch_size)
        lecun_normal_init(conv.weight, fan_in=c.in_channels * c.patch_size**2)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        return conv
    brick = Bricks(ActivationType.RELU, 1e-5, 0.1)
    parts: dict[str, nn.Module] = {}
    channels = c.in_channels
    for index, layer in enumerate(c.conv_stem_layers):
        parts[f"layer_{index}"] = brick(channels, layer.out_channels, layer.kernel, layer.stride)
        channels = layer.out_channels
    last = nn.Conv2d(channels, c.hidden_dim, 1)
    lecun_normal_init(last.weight, fan_in=channels)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return chain(**parts, last=last)


def resized(positions: Tensor, prefix: int, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Position embeddings for a grid of another size, by bicubic interpolation.

    Shape: (1, prefix + grid, d) to (1, prefix + size, d).
    """
    if grid == size:
        return positions
    image = positions[:, prefix:].transpose(1, 2).reshape(1, -1, *grid)
    image = F.interpolate(image, size, mode="bicubic", align_corners=True)
    return torch.cat([positions[:, :prefix], image.flatten(2).transpose(1, 2)], 1)


class Pool(nn.Module):
    """The class token, where there is one, or the mean over tokens. Shape: (n, s, d) to (n, d)."""

    def __init__(self, token: bool) -> None:
        super().__init__()
        self.token = token

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0] if self.token else x.mean(1)


# -- weight maps: names of the original -> ours

_LAYER = {
    "ln_1": "norm1",
    "self_attention.in_proj_weight": "attn.qkv.weight",
    "self_attention.in_proj_bias": "attn.qkv.bias",
    "self_attention.out_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp.linear_1": "mlp.fc1",
    "mlp.linear_2": "mlp.fc2",
}
CLASSY_VISION: list[Row] = [
    ("class_token", "stem.class_token"),
    ("conv_proj", "stem.proj"),
    ("encoder.pos_embedding", "stem.positions", SWAP_FIRST_AXES),
    *((f"encoder.layers.layer_{{i}}.{a}", f"blocks.layer_{{i}}.{b}") for a, b in _LAYER.items()),
    ("encoder.ln", "blocks.ln"),
]

# -- model


@register_model("vision_transformer", PRESETS)
class VisionTransformer(ClassyModel):
    """Tokens, encoder layers, a norm, and one vector per image.

    Shape: (n, in_channels, h, w), both multiples of the patch size, to (n, hidden_dim).
    """

    config_class: ClassVar[type[ModelConfig]] = VisionTransformerConfig
    config: VisionTransformerConfig
    stem: Tokens

    def __init__(
        self, config: VisionTransformerConfig | Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(config, **options)
        c = self.config
        self.stem = Tokens(c)
        drops = depth_rates(c.stochastic_depth, c.num_layers)
        self.blocks = nn.ModuleDict({f"layer_{i}": EncoderLayer(c, drop) for i, drop in enumerate(drops)})
        self.blocks["ln"] = nn.LayerNorm(c.hidden_dim, c.layer_norm_eps)
        self.tail = Pool(c.classifier == "token")

    @classmethod
    def default_head(cls, config: ModelConfig) -> dict[str, Any]:
        return {"name": "vision_transformer_head"}

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.config.in_channels, self.config.image_size, self.config.image_size)

    def check_input(self, x: Tensor) -> None:
        super().check_input(x)
        patch = self.config.patch_size
        if isinstance(x, Tensor) and (x.shape[2] % patch or x.shape[3] % patch):
            raise ValueError(
                f"height and width must be multiples of the patch size {patch}, not {tuple(x.shape[2:])}"
            )

    def key_map(self) -> KeyMap:
        rows: list[Row] = []
        layers = len(self.config.conv_stem_layers or ())
        for k in range(layers):
            ours = f"stem.proj.layer_{k}"
            rows += [(f"conv_proj.conv_{k}", f"{ours}.conv"), (f"conv_proj.bn_{k}", f"{ours}.norm")]
        if layers:
            rows.append((f"conv_proj.conv_{layers}", "stem.proj.last"))
        class_token, *rest = CLASSY_VISION
        return KeyMap("ClassyVision", [class_token, *rows, *rest])

    def _all_aliases(self) -> Mapping[str, str]:
        return {"layers": f"layer_{self.config.num_layers - 1}", "encoder": "ln"}

    def _to_native(self, state: Mapping[str, Any], strict: bool = True) -> dict[str, Any]:
        """Positions learned for another image size are interpolated."""
        native = super()._to_native(state, strict)
        own, given = self.stem.positions, native.get("stem.positions")
        if not isinstance(given, Tensor) or given.shape == own.shape:
            return native
        if given.dim() != 3 or given.shape[::2] != own.shape[::2]:
            return native  # the check of shapes tells
        prefix, side = self.config.prefix, isqrt(given.shape[1] - self.config.prefix)
        if side**2 + prefix != given.shape[1]:
            raise ConfigError(
                f"{given.shape[1]} position embeddings are no square grid and {prefix} more: were they "
                f"learned with another classifier than {self.config.classifier!r}?"
            )
        grid = (self.stem.grid, self.stem.grid)
        return {**native, "stem.positions": resized(given, prefix, (side, side), grid)}


if not TYPE_CHECKING:
    __getattr__ = names_gone(__name__, PRESETS)
