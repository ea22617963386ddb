"""Vision transformer (Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021), with what DeiT,
CLIP, MAE, DINOv2 and others changed in it, optionally with a convolutional stem (Xiao et al.,
"Early Convolutions Help Transformers See Better", 2021), or over clips, as VideoMAE (Tong et al., 2022) and
V-JEPA 2 (Assran et al., 2025).

Blocks are named ``layer_{index}``, counted from 0, and ``ln``, the norm after them. Each gives
tokens (n, s, d), first those that are not patches: class token, distillation token, registers; or
maps of the patches (n, d, h, w), of clips (n, d, t, h, w). ``trunk_output`` is one vector per image or
clip, (n, d).
Axes: n batch, s tokens, d width, t time, h height, w width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.fx
from pydantic import model_validator
from torch import Tensor, nn
from typing_extensions import Self

from classy_vision.config import ConfigError, NonNegativeInt, PositiveFloat, PositiveInt, Probability
from classy_vision.heads.classy_head import ClassyHead, TokenLayout
from classy_vision.layers.attention_pool import AttentionPool
from classy_vision.layers.clips import check_clips
from classy_vision.layers.stochastic_depth import depth_rates
from classy_vision.models.classy_model import ClassyModel, register_model
from classy_vision.models.vision_transformer.conv_stem import ConvStemLayer, conv_stem, patch_conv
from classy_vision.models.vision_transformer.encoder import EncoderConfig, EncoderLayer
from classy_vision.models.vision_transformer.fit import CLASS_TOKEN, fit_tokens
from classy_vision.models.vision_transformer.keys import LAYOUTS
from classy_vision.models.vision_transformer.positions import PositionResize
from classy_vision.models.vision_transformer.rotary import MixedDirections, make_grid, make_rotation
from classy_vision.models.vision_transformer.shapes import SHAPES
from classy_vision.models.vision_transformer.tokens import TokenPool, Tokens, patch_map
from classy_vision.trunk.names import split_place
from classy_vision.trunk.trunk import END, ModelConfig
from classy_vision.weights.fitting import Fitting

torch.fx.wrap("make_rotation")
torch.fx.wrap("make_grid")

# -- config


class VisionTransformerConfig(ModelConfig, EncoderConfig):
    """A vision transformer.

    Attributes:
        image_size: height and width, or (height, width), for which positions are learned; those of
            other images are resized.
        patch_size: height and width of a token, in pixels.
        frames_per_clip: of the usual input, which is a clip; null for images.
        tubelet_size: frames of a token of clips.
        num_layers: of the encoder.
        classifier: "token", "gap", the mean over patches, or "attention", what a learned query finds (SigLIP).
        pool_num_heads, pool_mlp_dim: of that attention and the MLP after it; by default as in the encoder.
        pool_norm_eps: of a norm after pooling, if it is not that of the other norms (VideoMAE).
        conv_stem_layers: convolutions instead of one patch embedding; their strides multiply to
            ``patch_size``.
        class_token: whether there is one; by default where the classifier reads it.
        distillation_token: a second one, after it (DeiT); the default head reads both.
        num_register_tokens: further tokens that nothing reads (DINOv2).
        pos_embed: positions are learned and added to the tokens; "sincos" adds fixed ones to the patches, sines
            and cosines of their number. Those of clips are not learned.
        pos_embed_prefix: tokens that are not patches have positions too; not in DeiT III.
        pos_embed_resize: how positions are resized; see ``classy_vision.models.vision_transformer.positions``.
        patch_bias: the patch embedding has biases.
        patch_norm: a norm of the patches before positions are added (AIMv2).
        pre_norm: a norm before the encoder (CLIP).
        final_norm: before pooling, which is block ``ln``, after it (MAE), or none.
        patch_drop_rate: part of the patches that is left out in training, at random.
        feature_format: what blocks give: all "tokens", or the patches as a "map" (n, d, h, w).
    """

    image_size: PositiveInt | tuple[PositiveInt, PositiveInt]
    patch_size: PositiveInt
    frames_per_clip: PositiveInt | None = None
    tubelet_size: PositiveInt = 2
    num_layers: PositiveInt
    classifier: Literal["token", "gap", "attention"] = "token"
    pool_num_heads: PositiveInt | None = None
    pool_mlp_dim: PositiveInt | None = None
    pool_norm_eps: PositiveFloat | None = None
    conv_stem_layers: tuple[ConvStemLayer, ...] | None = None
    class_token: bool | None = None
    distillation_token: bool = False
    num_register_tokens: NonNegativeInt = 0
    pos_embed: bool | Literal["sincos"] = True
    pos_embed_prefix: bool = True
    pos_embed_resize: PositionResize = "bicubic_align_corners"
    patch_bias: bool = True
    patch_norm: bool = False
    pre_norm: bool = False
    final_norm: Literal["before_pool", "after_pool", "none"] = "before_pool"
    patch_drop_rate: Probability = 0.0
    feature_format: Literal["tokens", "map"] = "tokens"

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if any(side % self.patch_size for side in self.image_shape):
            fit = [max(1, round(side / self.patch_size)) * self.patch_size for side in self.image_shape]
            raise ValueError(
                f"image_size = {self.image_size} must be a multiple of patch_size, as "
                f"{fit[0] if isinstance(self.image_size, int) else tuple(fit)}"
            )
        if self.conv_stem_layers is not None:
            stride = torch.Size([layer.stride for layer in self.conv_stem_layers]).numel()
            if not self.conv_stem_layers or stride != self.patch_size:
                raise ValueError(
                    f"the strides of conv_stem_layers multiply to {stride}, not to patch_size = "
                    f"{self.patch_size}"
                )
        return self

    @model_validator(mode="after")
    def _check_clips(self) -> Self:
        if self.pos_embed == "sincos" and self.hidden_dim % 2:
            raise ValueError(f"pos_embed = 'sincos' needs an even hidden_dim, not {self.hidden_dim}")
        if self.frames_per_clip is None:
            return self
        if self.frames_per_clip % self.tubelet_size:
            fit = max(1, round(self.frames_per_clip / self.tubelet_size)) * self.tubelet_size
            raise ValueError(
                f"frames_per_clip = {self.frames_per_clip} must be a multiple of tubelet_size, as {fit}"
            )
        if self.conv_stem_layers is not None:
            raise ValueError("frames_per_clip beside conv_stem_layers: that stem is for images")
        if self.pos_embed is True:
            raise ValueError(
                "frames_per_clip beside pos_embed = True: positions are learned for images; of clips they are "
                "'sincos', or false with rotary"
            )
        self._check_rotary_of_clips()
        return self

    def _check_rotary_of_clips(self) -> None:
        width = self.hidden_dim // self.num_heads
        if self.rotary is None:
            return
        if self.rotary.kind == "mixed":
            raise ValueError("frames_per_clip beside rotary.kind = 'mixed', which is learned for images")
        if width < 6 or (self.rotary.halves and width % 6):
            what = "a multiple of 6 with rotary.halves" if self.rotary.halves else "6 or more"
            raise ValueError(f"rotary needs heads of clips whose width is {what}, not {width}")

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        if self.classifier == "token" and self.class_token is False:
            raise ValueError("classifier = 'token' needs class_token = True; without one it is 'gap'")
        if self.distillation_token and (self.classifier != "token" or self.final_norm == "after_pool"):
            raise ValueError(
                "distillation_token = True needs classifier = 'token' and a final_norm = 'before_pool' or "
                "'none': each token has a classifier of its own"
            )
        if self.patch_drop_rate and self.rotary is not None:
            raise ValueError(
                f"patch_drop_rate = {self.patch_drop_rate:g} beside rotary: rotations are for all patches"
            )
        if self.classifier == "attention" and self.final_norm == "after_pool":
            raise ValueError("classifier = 'attention' pools what the last norm gives, or 'none'")
        if self.patch_drop_rate and self.feature_format == "map":
            raise ValueError(
                f"patch_drop_rate = {self.patch_drop_rate:g} leaves holes in maps: it needs "
                f"feature_format = 'tokens'"
            )
        return self

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width for which positions are learned."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    @property
    def has_class_token(self) -> bool:
        return self.classifier == "token" if self.class_token is None else self.class_token


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
_CLIPS = {"patch_size": 16, "classifier": "gap"}
_VIDEOMAE = {  # as fine-tuned; before that its norm is "before_pool"
    **{"image_size": 224, "frames_per_clip": 16, "pos_embed": "sincos", "qkv_bias": "qv"},
    **{"layer_norm_eps": 1e-12, "final_norm": "after_pool", "pool_norm_eps": 1e-5},
}
_VJEPA2 = {"image_size": 256, "frames_per_clip": 64, "pos_embed": False, "rotary": {"kind": "tiled"}}
_SIZES_OF_CLIPS = {  # layers, width, MLP width, heads as transformers has them
    "videomae_small": (_VIDEOMAE, 12, 384, 1536, 16),
    "videomae_base": (_VIDEOMAE, 12, 768, 3072, 12),
    "videomae_large": (_VIDEOMAE, 24, 1024, 4096, 16),
    "videomae_huge": (_VIDEOMAE, 32, 1280, 5120, 16),
    "vjepa2_large": (_VJEPA2, 24, 1024, 4096, 16),
    "vjepa2_huge": (_VJEPA2, 32, 1280, 5120, 16),
    "vjepa2_giant": (_VJEPA2, 40, 1408, 6144, 22),
}
PRESETS |= {
    name: {**_CLIPS, **kind, "num_layers": layers, "hidden_dim": width, "mlp_dim": mlp, "num_heads": heads}
    for name, (kind, layers, width, mlp, heads) in _SIZES_OF_CLIPS.items()
}

# -- model


@register_model("vision_transformer", PRESETS)
class VisionTransformer(ClassyModel):
    """Tokens, encoder layers, a norm, and one vector per image or clip.

    Shape: (n, in_channels, h, w), both multiples of the patch size, to (n, hidden_dim). With
    ``frames_per_clip`` it takes clips (n, in_channels, t, h, w), t a multiple of the tubelet size, and an image
    or a single frame counts as a clip in which nothing moves.
    """

    config_class: ClassVar[type[ModelConfig]] = VisionTransformerConfig
    layouts = LAYOUTS
    shapes = SHAPES
    optional_keys = frozenset({CLASS_TOKEN})
    is_sequential = True
    ends_of_layers = ("ln",)
    config: VisionTransformerConfig
    stem: Tokens

    def __init__(
        self, config: VisionTransformerConfig | Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(config, **options)
        c = self.config
        self.add_step("stem", _tokens(c), c.hidden_dim)
        for i, drop in enumerate(depth_rates(c.stochastic_depth, c.num_layers)):
            self.add_step(f"layer_{i}", EncoderLayer(c, drop, i), c.hidden_dim)
        if c.final_norm == "before_pool":
            self.add_step("ln", c.norm(), c.hidden_dim)
        self.add_step(END, _pool(c, self.stem.prefix), c.hidden_dim)
        self._rotary = {} if c.rotary is None else c.rotary.model_dump()
        last = f"layer_{c.num_layers - 1}"
        norm_name = {} if "ln" in self.blocks else {"ln": last}
        self.aliases = {"layers": last, **norm_name, "encoder": list(self.blocks)[-1]}

    @classmethod
    def default_head(cls, config: ModelConfig) -> dict[str, Any]:
        """One classifier; of a distilled model one for each of its two tokens, averaged."""
        assert isinstance(config, VisionTransformerConfig)
        if not config.distillation_token:
            return {"name": "vision_transformer_head"}
        if config.feature_format == "map":
            raise ConfigError(
                "num_classes: the two classifiers of a distilled model read tokens, which feature_format "
                "= 'map' leaves out; list heads instead, or take 'tokens'"
            )
        return {"name": "vision_transformer_head", "num_tokens": 2, "fork_block": "ln"}

    @property
    def input_shape(self) -> tuple[int, ...]:
        c = self.config
        frames = () if c.frames_per_clip is None else (c.frames_per_clip,)
        return (c.in_channels, *frames, *c.image_shape)

    def no_weight_decay(self) -> set[str]:
        names = {"positions", "directions.freqs", *self.stem.prefix_tokens()}
        return {f"stem.{name}" for name, _ in self.stem.named_parameters() if name in names}

    def block_arguments(self, x: Tensor) -> tuple[Tensor, ...]:
        """Where rotary positions rotate queries and keys, by how much."""
        c, stem = self.config, self.stem
        if c.rotary is None:
            return ()
        size = stem.size_of(x)
        if stem.directions is not None:
            return (stem.directions(make_grid(x, size, **self._rotary), stem.prefix),)
        return (make_rotation(x, size, c.hidden_dim // c.num_heads, stem.prefix, **self._rotary),)

    def check_input(self, x: Tensor) -> None:
        c = self.config
        if c.frames_per_clip is None:
            super().check_input(x)
        else:
            check_clips(x, c.in_channels, type(self).__name__, c.tubelet_size)
        if isinstance(x, Tensor) and (x.shape[-2] % c.patch_size or x.shape[-1] % c.patch_size):
            raise ValueError(
                f"height and width must be multiples of the patch size {c.patch_size}, not "
                f"{tuple(x.shape[-2:])}"
            )

    def walk(self, x: Tensor, until: str = END) -> Iterator[tuple[str, Tensor]]:
        """As in every trunk; with maps of the patches where the config says so."""
        steps = super().walk(x, until)
        return steps if self.config.feature_format == "tokens" else self._maps(x, steps)

    def _maps(self, x: Tensor, steps: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        size = self.stem.size_of(x)
        for name, feature in steps:
            yield name, feature if name == END else patch_map(feature, self.stem.prefix, size)

    def token_layout(self, step: str) -> TokenLayout | None:
        if step == END or self.config.feature_format == "map":
            return None
        of_clip = self.config.frames_per_clip is not None
        return TokenLayout(self.stem.prefix, self.config.has_class_token, of_clip, self.config.patch_size)

    def head_input(self, head: ClassyHead, step: str, feature: Tensor, x: Tensor) -> Tensor:
        """As in every trunk; of inner layers what the last norm makes of them, where the head wants that, as
        in DINOv2."""
        if head.trunk_norm and self._is_inner(step):
            norm = self.blocks["ln"]
            is_map = self.config.feature_format == "map"
            feature = norm(feature.movedim(1, -1)).movedim(-1, 1) if is_map else norm(feature)
        return super().head_input(head, step, feature, x)

    def modules_for_heads(self) -> set[str]:
        read = ((place, head) for place, heads in self.get_heads().items() for head in heads if head.trunk_norm)
        blocks = (block for place, _ in read for block in split_place(place))
        return {"blocks.ln"} if any(self._is_inner(self._step(block)) for block in blocks) else set()

    def _is_inner(self, step: str) -> bool:
        """Whether it is a layer of an encoder that a norm follows."""
        return "ln" in self.blocks and step not in ("stem", "ln", END)

    def fit(self, native: dict[str, Any], fitting: Fitting) -> dict[str, Any]:
        return fit_tokens(native, self.stem, fitting)


def _tokens(c: VisionTransformerConfig) -> Tokens:
    height, width = c.image_shape
    tubelet = None if c.frames_per_clip is None else c.tubelet_size
    if c.conv_stem_layers is None:
        proj: nn.Module = patch_conv(c.in_channels, c.hidden_dim, c.patch_size, c.patch_bias, tubelet)
    else:
        proj = conv_stem(c.in_channels, c.hidden_dim, c.conv_stem_layers, c.patch_bias)
    return Tokens(
        proj,
        c.hidden_dim,
        (height // c.patch_size, width // c.patch_size),
        c.patch_size,
        tubelet_size=tubelet,
        class_token=c.has_class_token,
        distillation_token=c.distillation_token,
        num_register_tokens=c.num_register_tokens,
        prefix_positions=c.pos_embed_prefix,
        resize=c.pos_embed_resize,
        dropout=c.dropout_rate,
        patch_drop=c.patch_drop_rate,
        norm=c.norm() if c.pre_norm else None,
        has_positions=c.pos_embed,
        patch_norm=c.norm() if c.patch_norm else None,
        directions=_directions(c),
    )


def _directions(c: VisionTransformerConfig) -> nn.Module | None:
    if c.rotary is None or c.rotary.kind != "mixed":
        return None
    return MixedDirections(c.rotary, c.num_layers, c.num_heads, c.hidden_dim // c.num_heads)


def _pool(c: VisionTransformerConfig, prefix: int) -> nn.Module:
    if c.classifier == "attention":
        return AttentionPool(
            c.hidden_dim,
            c.pool_num_heads or c.num_heads,
            mlp_ratio=(c.pool_mlp_dim or c.mlp_dim) / c.hidden_dim,
            activation="gelu_tanh" if c.activation == "gelu_tanh" else "gelu",
            eps=c.layer_norm_eps,
        )
    norm = c.norm(eps=c.pool_norm_eps) if c.final_norm == "after_pool" else None
    return TokenPool(prefix if c.classifier == "gap" else None, norm)
