"""Published layouts of VisionTransformer, DeiT, DINO, MAE and CLIP's image towers among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from classy_vision.heads import attention_pool_head
from classy_vision.weights.key_map import (
    JOIN_QKV,
    REVERSE_CHANNELS,
    SWAP_FIRST_AXES,
    Renaming,
    Row,
    Transform,
)
from classy_vision.weights.layout import CLASSIFIER, HEAD, Layout, Layouts, nest_rows

_LAYER = "blocks.layer_{i}"
_LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")
_CLASSY_VISION = {
    "ln_1": "norm1",
    "self_attention.in_proj_weight": "attn.qkv.weight",
    "self_attention.in_proj_bias": "attn.qkv.bias",
    "self_attention.q_norm": "attn.q_norm",
    "self_attention.k_norm": "attn.k_norm",
    **{f"self_attention.{name}": f"attn.{name}" for name in ("sub_norm", *_LAMBDAS)},
    **{f"self_attention.{name}": f"attn.{name}" for name in ("q_bias", "v_bias", "norm")},
    "self_attention.out_proj": "attn.proj",
    "layer_scale_1": "scale1",
    "ln_2": "norm2",
    "mlp.linear_1": "mlp.fc1",
    "mlp.norm": "mlp.norm",
    "mlp.linear_2": "mlp.fc2",
    "layer_scale_2": "scale2",
}
_PRE_LOGITS = f"{HEAD}layers.pre_logits"


def _conv_stem(config: Any, conv: str, norm: str, last: str) -> list[Row]:
    """Rows of a convolutional stem; ``conv`` and ``norm`` have a place for the layer's number."""
    layers = len(config.conv_stem_layers or ())
    rows: list[Row] = []
    for k in range(layers):
        ours = f"stem.proj.layer_{k}"
        rows += [(conv.format(k), f"{ours}.conv"), (norm.format(k), f"{ours}.norm")]
    return [*rows, (last.format(layers), "stem.proj.last")] if layers else []


def _classy_vision(config: Any) -> list[Row]:
    """With names in its style for what the original did not have."""
    return [
        *_conv_stem(config, "conv_proj.conv_{}", "conv_proj.bn_{}", "conv_proj.conv_{}"),
        ("class_token", "stem.class_token"),
        ("distillation_token", "stem.distillation_token"),
        ("register_tokens", "stem.register_tokens"),
        ("conv_proj", "stem.proj"),
        ("encoder.pos_embedding", "stem.positions", SWAP_FIRST_AXES),
        ("encoder.ln_pre", "stem.norm"),
        ("patch_norm", "stem.patch_norm"),
        ("encoder.directions", "stem.directions"),
        *nest_rows("encoder.layers.layer_{i}", _LAYER, _CLASSY_VISION),
        ("encoder.ln", "blocks.ln"),
        ("ln_post", "tail.norm"),
        ("attention_pool", "tail"),
    ]


def _swag(config: Any) -> list[Row]:
    return [
        *_classy_vision(config),
        ("head.layers.head", CLASSIFIER),
        ("head.layers.pre_logits", _PRE_LOGITS),
    ]


_TORCHVISION = {
    "ln_1": "norm1",
    "self_attention.in_proj_weight": "attn.qkv.weight",
    "self_attention.in_proj_bias": "attn.qkv.bias",
    "self_attention.out_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp.0": "mlp.fc1",
    "mlp.3": "mlp.fc2",
}
_BEFORE_0_14: list[Renaming] = [
    (f"encoder.layers.encoder_layer_{{i}}.mlp.linear_{n}", f"encoder.layers.encoder_layer_{{i}}.mlp.{place}")
    for n, place in ((1, 0), (2, 3))
]


def _torchvision(config: Any) -> list[Row]:
    conv = "conv_proj.conv_bn_relu_{}"
    return [
        *_conv_stem(config, f"{conv}.0", f"{conv}.1", "conv_proj.conv_last"),
        ("class_token", "stem.class_token"),
        ("conv_proj", "stem.proj"),
        ("encoder.pos_embedding", "stem.positions"),
        *nest_rows("encoder.layers.encoder_layer_{i}", _LAYER, _TORCHVISION),
        ("encoder.ln", "blocks.ln"),
        ("heads.head", CLASSIFIER),
        ("heads.pre_logits", _PRE_LOGITS),
    ]


_TIMM: list[Row] = [
    ("cls_token", "stem.class_token"),
    ("dist_token", "stem.distillation_token"),
    ("reg_token", "stem.register_tokens"),
    ("pos_embed", "stem.positions"),
    ("patch_embed.proj", "stem.proj"),
    ("norm_pre", "stem.norm"),
    ("blocks.{i}.ls1.gamma", "blocks.layer_{i}.scale1"),
    ("blocks.{i}.ls2.gamma", "blocks.layer_{i}.scale2"),
    *((f"blocks.{{i}}.{name}", f"{_LAYER}.{name}") for name in ("norm1", "attn", "norm2", "mlp")),
    ("norm", "blocks.ln"),
    ("fc_norm", "tail.norm"),
    ("patch_embed.norm", "stem.patch_norm"),
    ("rope.freqs", "stem.directions.freqs"),
    ("head", CLASSIFIER),
    ("head_dist", f"{HEAD}layers_1.head"),
    ("pre_logits.fc", _PRE_LOGITS),
]


def is_eva(config: Any) -> bool:
    """Whether timm has such models in its class Eva, which calls layer scales otherwise."""
    return getattr(config, "rotary", None) is not None or getattr(config, "qkv_bias", True) == "qv"


def has_split_gate(config: Any) -> bool:
    """Whether timm keeps the halves of the first layer of SwiGLU apart: in EVA-02, DINOv3 and AIMv2."""
    rotary = getattr(config, "rotary", None)
    split = (config.mlp_norm, config.norm_type == "rms", rotary is not None and rotary.kind == "centered")
    return config.activation == "swiglu" and any(split)


def has_split_qkv(config: Any) -> bool:
    """Whether timm keeps queries, keys and values apart: in EVA-02's base and large models."""
    return config.activation == "swiglu" and config.mlp_norm


def _timm(config: Any) -> list[Row]:
    rows: list[Row] = []
    if is_eva(config):
        rows += [(f"blocks.{{i}}.gamma_{n}", f"{_LAYER}.scale{n}") for n in (1, 2)]
    if has_split_gate(config):
        for leaf in ("weight", "bias"):
            halves = tuple(f"blocks.{{i}}.mlp.fc1_{half}.{leaf}" for half in ("g", "x"))
            rows.append((halves, f"{_LAYER}.mlp.fc1.{leaf}", _JOIN_GATES))
    if has_split_qkv(config):
        three = tuple(f"blocks.{{i}}.attn.{name}_proj.weight" for name in "qkv")
        rows.append((three, f"{_LAYER}.attn.qkv.weight", JOIN_QKV))
        rows += [(f"blocks.{{i}}.attn.{name}_proj.bias", f"{_LAYER}.attn.{name}_bias") for name in "qv"]
    if getattr(config, "classifier", "") == "attention":
        rows += [(row[0], row[1].replace("pool.", "tail."), *row[2:]) for row in attention_pool_head.TIMM]
    return [*rows, *(row for row in _TIMM if not (is_eva(config) and ".ls" in row[0]))]


def probe(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """What rows read of a config, for the keys of a file."""
    has_gate = any(".mlp.fc1_g." in key for key in theirs)
    has_qkv = any(".attn.q_proj." in key for key in theirs)
    return {
        "qkv_bias": "qv" if any("gamma_1" in key or "q_bias" in key for key in theirs) else True,
        "rotary": None,
        "activation": "swiglu" if has_gate else "gelu",
        "mlp_norm": has_qkv,
        "norm_type": "rms" if has_gate else "layer",
        "classifier": "attention" if any(key.startswith("attn_pool.") for key in theirs) else "token",
        "num_register_tokens": int(any("register_tokens" in key for key in theirs)),
    }


_GAMMAS: list[Renaming] = [(f"blocks.{{i}}.gamma_{n}", f"blocks.{{i}}.ls{n}.gamma") for n in (1, 2)]
_AS_TIMM: list[Renaming] = [  # AIMv2, DeiT III and DINOv2 as they were published first
    *(
        (f"trunk.blocks.{{i}}.{theirs}", f"blocks.{{i}}.{ours}")
        for theirs, ours in (
            ("norm_1", "norm1"),
            ("norm_2", "norm2"),
            ("mlp.fc1", "mlp.fc1_g"),
            ("mlp.fc3", "mlp.fc1_x"),
            ("mlp.fc2", "mlp.fc2"),
            ("attn", "attn"),
        )
    ),
    ("trunk.post_trunk_norm", "norm"),
    ("preprocessor.patchifier", "patch_embed"),
    ("preprocessor.pos_embed", "pos_embed"),
    ("blocks.{i}.mlp.w12", "blocks.{i}.mlp.fc1"),
    ("blocks.{i}.mlp.w3", "blocks.{i}.mlp.fc2"),
    ("register_tokens", "reg_token"),
]


def _as_timm(config: Any) -> list[Renaming]:
    return _AS_TIMM if is_eva(config) else [*_GAMMAS, *_AS_TIMM]


_PYCLS = {
    "ln_1": "norm1",
    "self_attention.block.in_proj_weight": "attn.qkv.weight",
    "self_attention.block.in_proj_bias": "attn.qkv.bias",
    "self_attention.block.out_proj": "attn.proj",
    "ln_2": "norm2",
    "mlp_block.linear_1": "mlp.fc1",
    "mlp_block.linear_2": "mlp.fc2",
}


def _pycls(config: Any) -> list[Row]:
    first = "stem.proj.layer_0.conv.weight" if config.conv_stem_layers else "stem.proj.weight"
    theirs = "stem.cstem0_conv.weight" if config.conv_stem_layers else "stem.patchify.weight"
    return [
        (theirs, first, REVERSE_CHANNELS),
        *_conv_stem(config, "stem.cstem{}_conv", "stem.cstem{}_bn", "stem.cstem_last_conv"),
        ("class_token", "stem.class_token"),
        ("pos_embedding", "stem.positions", SWAP_FIRST_AXES),
        ("stem.patchify", "stem.proj"),
        *nest_rows("encoder.block_{i}", _LAYER, _PYCLS),
        ("encoder.ln", "blocks.ln"),
        ("head.head_fc", CLASSIFIER),
    ]


_HF_LAYER = "vit.encoder.layer.{i}"
_QKV = tuple(f"{_HF_LAYER}.attention.attention.{name}" for name in ("query", "key", "value"))
_TRANSFORMERS: list[Row] = [
    ("vit.embeddings.cls_token", "stem.class_token"),
    ("vit.embeddings.distillation_token", "stem.distillation_token"),
    ("vit.embeddings.position_embeddings", "stem.positions"),
    ("vit.embeddings.patch_embeddings.projection", "stem.proj"),
    (_QKV, f"{_LAYER}.attn.qkv", JOIN_QKV),
    *nest_rows(
        _HF_LAYER,
        _LAYER,
        {
            "layernorm_before": "norm1",
            "attention.output.dense": "attn.proj",
            "layernorm_after": "norm2",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
        },
    ),
    ("vit.layernorm", "blocks.ln"),
    ("classifier", CLASSIFIER),
]


def _add_axis(tensor: Tensor) -> Tensor:
    return tensor[None]


def _take_axis(tensor: Tensor) -> Tensor:
    return tensor[0]


ADD_FIRST_AXIS = Transform(_add_axis, _take_axis, "with an axis for the batch")
_DINOV2 = {
    "norm1": "norm1",
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "scale1",
    "norm2": "norm2",
    "layer_scale2.lambda1": "scale2",
}
_DINO_MLP = {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_DINO_SWIGLU = {"mlp.weights_in": "mlp.fc1", "mlp.weights_out": "mlp.fc2", "mlp.down_proj": "mlp.fc2"}


def _place_class(tensor: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(tensor[:, :1]), tensor], 1)


_PLACE_CLASS = Transform(lambda tensor: tensor, _place_class, "with a position of zero for the class token")


_DINOV2_PREFIXES = ("dinov2.", "dinov2_with_registers.")


def _name_dinov2(config: Any) -> str:
    return "dinov2_with_registers" if getattr(config, "num_register_tokens", 0) else "dinov2"


def _transformers_dinov2(config: Any) -> list[Row]:
    """As the files have it; the library has other names for some, and splits the first layer of SwiGLU."""
    name = _name_dinov2(config)
    layer = f"{name}.encoder.layer.{{i}}"
    qkv = tuple(f"{layer}.attention.attention.{part}" for part in ("query", "key", "value"))
    gates = (f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj")
    mlps = [_DINO_SWIGLU, _DINO_MLP] if config.activation == "swiglu" else [_DINO_MLP, _DINO_SWIGLU]
    # There the class token has a position and registers have none; here all tokens have one, or none has.
    placed = getattr(config, "pos_embed_prefix", True) or not getattr(config, "num_register_tokens", 0)
    positions = (f"{name}.embeddings.position_embeddings", "stem.positions")
    return [
        (f"{name}.embeddings.cls_token", "stem.class_token"),
        (f"{name}.embeddings.register_tokens", "stem.register_tokens"),
        positions if placed else (*positions, _PLACE_CLASS),
        (f"{name}.embeddings.patch_embeddings.projection", "stem.proj"),
        (qkv, f"{_LAYER}.attn.qkv", JOIN_QKV),
        *nest_rows(layer, _LAYER, {**_DINOV2, **mlps[0], **mlps[1]}),
        (gates, f"{_LAYER}.mlp.fc1", _JOIN_GATES),
        (f"{name}.layernorm", "blocks.ln"),
    ]


def _halves(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.chunk(2)


_JOIN_GATES = Transform(lambda *parts: torch.cat(parts), _halves, "gate and value joined")


def _rename_dinov2(config: Any) -> list[Renaming]:
    name = _name_dinov2(config)
    attention = f"{name}.encoder.layer.{{i}}.attention"
    parts = (("q", "query"), ("k", "key"), ("v", "value"))
    return [
        ("backbone", name),  # below a head for every pixel
        *((part, f"{name}.{part}") for part in ("embeddings", "encoder", "layernorm")),  # without a head
        *((f"{attention}.{ours}_proj", f"{attention}.attention.{theirs}") for ours, theirs in parts),
        (f"{attention}.o_proj", f"{attention}.output.dense"),
    ]


_AIMV2: list[Row] = [
    ("embeddings.position_embedding.weight", "stem.positions", ADD_FIRST_AXIS),
    ("embeddings.patch_embed", "stem.proj"),
    ("embeddings.rms_norm", "stem.patch_norm"),
    (tuple(f"encoder.layers.{{i}}.attention.{name}_proj" for name in "qkv"), f"{_LAYER}.attn.qkv", JOIN_QKV),
    (
        tuple(f"encoder.layers.{{i}}.ffn.{name}_proj" for name in ("gate", "up")),
        f"{_LAYER}.mlp.fc1",
        _JOIN_GATES,
    ),
    *nest_rows(
        "encoder.layers.{i}",
        _LAYER,
        {
            "attention.out_proj": "attn.proj",
            "ffn.down_proj": "mlp.fc2",
            "rms_norm1": "norm1",
            "rms_norm2": "norm2",
        },
    ),
    ("rms_norm", "blocks.ln"),
    ("classifier", CLASSIFIER),
]


_DINOV3_LAYER = "model.layer.{i}"


def _transformers_dinov3(config: Any) -> list[Row]:
    attention, mlp = f"{_DINOV3_LAYER}.attention", f"{_DINOV3_LAYER}.mlp"
    parts = {"norm1": "norm1", "norm2": "norm2", "attention.o_proj": "attn.proj", "mlp.down_proj": "mlp.fc2"}
    scales = {f"layer_scale{n}.lambda1": f"scale{n}" for n in (1, 2)}
    gated = config.activation == "swiglu"
    rows: list[Row] = (
        [((f"{mlp}.gate_proj", f"{mlp}.up_proj"), f"{_LAYER}.mlp.fc1", _JOIN_GATES)] if gated else []
    )
    three = tuple(f"{attention}.{name}_proj.weight" for name in "qkv")
    return [
        *rows,
        ("embeddings.cls_token", "stem.class_token"),
        ("embeddings.register_tokens", "stem.register_tokens"),
        ("embeddings.patch_embeddings", "stem.proj"),
        (three, f"{_LAYER}.attn.qkv.weight", JOIN_QKV),
        *((f"{attention}.{name}_proj.bias", f"{_LAYER}.attn.{name}_bias") for name in "qv"),
        *nest_rows(_DINOV3_LAYER, _LAYER, {**parts, **scales, **({} if gated else {"mlp.up_proj": "mlp.fc1"})}),
        ("norm", "blocks.ln"),
        ("classifier", CLASSIFIER),
    ]


_SIGLIP_LAYER = "vision_model.encoder.layers.{i}"
_SIGLIP: list[Row] = [
    ("vision_model.embeddings.patch_embedding", "stem.proj"),
    ("vision_model.embeddings.position_embedding.weight", "stem.positions", ADD_FIRST_AXIS),
    (tuple(f"{_SIGLIP_LAYER}.self_attn.{name}_proj" for name in "qkv"), f"{_LAYER}.attn.qkv", JOIN_QKV),
    *nest_rows(
        _SIGLIP_LAYER,
        _LAYER,
        {
            "layer_norm1": "norm1",
            "self_attn.out_proj": "attn.proj",
            "layer_norm2": "norm2",
            "mlp.fc1": "mlp.fc1",
            "mlp.fc2": "mlp.fc2",
        },
    ),
    ("vision_model.post_layernorm", "blocks.ln"),
    ("classifier", CLASSIFIER),
]


_SIGLIP_NAMES: list[Renaming] = [  # of the image tower alone
    (part, f"vision_model.{part}") for part in ("embeddings", "encoder", "post_layernorm", "head")
]


def _transformers_siglip(config: Any) -> list[Row]:
    if getattr(config, "classifier", "") != "attention":
        return _SIGLIP
    pool = attention_pool_head.SIGLIP
    return [*_SIGLIP, *((row[0], row[1].replace("pool.", "tail."), *row[2:]) for row in pool if row[1] != "fc")]


_VIDEOMAE_LAYER = "videomae.encoder.layer.{i}"
_VIDEOMAE_ATTENTION = f"{_VIDEOMAE_LAYER}.attention.attention"
_VIDEOMAE: list[Row] = [
    ("videomae.embeddings.patch_embeddings.projection", "stem.proj"),
    (
        tuple(f"{_VIDEOMAE_ATTENTION}.{part}.weight" for part in ("query", "key", "value")),
        f"{_LAYER}.attn.qkv.weight",
        JOIN_QKV,
    ),
    *((f"{_VIDEOMAE_ATTENTION}.{part}_bias", f"{_LAYER}.attn.{part}_bias") for part in "qv"),
    *nest_rows(
        _VIDEOMAE_LAYER,
        _LAYER,
        {
            "attention.output.dense": "attn.proj",
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
            "intermediate.dense": "mlp.fc1",
            "output.dense": "mlp.fc2",
        },
    ),
    ("videomae.layernorm", "blocks.ln"),
    ("fc_norm", "tail.norm"),
    ("classifier", CLASSIFIER),
]
_VIDEOMAE_NAMES: list[Renaming] = [
    *((part, f"videomae.{part}") for part in ("embeddings", "encoder", "layernorm")),  # without a head
    (f"{_VIDEOMAE_ATTENTION}.query.bias", f"{_VIDEOMAE_ATTENTION}.q_bias"),  # what the library calls them now
    (f"{_VIDEOMAE_ATTENTION}.value.bias", f"{_VIDEOMAE_ATTENTION}.v_bias"),
]

_VJEPA2_LAYER = "vjepa2.encoder.layer.{i}"
_VJEPA2: list[Row] = [
    ("vjepa2.encoder.embeddings.patch_embeddings.proj", "stem.proj"),
    (
        tuple(f"{_VJEPA2_LAYER}.attention.{part}" for part in ("query", "key", "value")),
        f"{_LAYER}.attn.qkv",
        JOIN_QKV,
    ),
    *nest_rows(
        _VJEPA2_LAYER,
        _LAYER,
        {"norm1": "norm1", "attention.proj": "attn.proj", "norm2": "norm2", "mlp": "mlp"},
    ),
    ("vjepa2.encoder.layernorm", "blocks.ln"),
    ("pooler", f"{HEAD}pooler"),  # where the model has no such head
    ("classifier", CLASSIFIER),
]


# -- Google's, of JAX: kernels have their inputs first, and attention an axis of heads


def _transposed(kernel: Tensor) -> Tensor:
    return kernel.transpose(0, 1)


def _from_hwio(kernel: Tensor) -> Tensor:
    return kernel.permute(3, 2, 0, 1)


def _to_hwio(kernel: Tensor) -> Tensor:
    return kernel.permute(2, 3, 1, 0)


_KERNEL = Transform(_transposed, _transposed, "kernel transposed")
_PATCHES = Transform(_from_hwio, _to_hwio, "axes of the kernel ordered")


def _google(config: Any) -> list[Row]:
    heads, width = config.num_heads, config.hidden_dim
    size = width // heads
    join = Transform(
        lambda *parts: torch.cat([part.reshape(width, width).T for part in parts]),
        lambda ours: tuple(part.T.reshape(width, heads, size) for part in ours.chunk(3)),
        "query, key and value joined",
    )
    join_bias = Transform(
        lambda *parts: torch.cat([part.flatten() for part in parts]),
        lambda ours: tuple(part.reshape(heads, size) for part in ours.chunk(3)),
        "query, key and value joined",
    )
    out = Transform(
        lambda theirs: theirs.flatten(0, 1).T,
        lambda ours: ours.T.reshape(heads, size, width),
        "heads joined",
    )
    layer = "Transformer.encoderblock_{i}"
    attention, mlp = f"{layer}.MultiHeadDotProductAttention_1", f"{layer}.MlpBlock_3"

    def qkv(leaf: str) -> tuple[str, ...]:
        return tuple(f"{attention}.{part}.{leaf}" for part in ("query", "key", "value"))

    return [
        ("cls", "stem.class_token"),
        ("Transformer.posembed_input.pos_embedding", "stem.positions"),
        ("embedding.kernel", "stem.proj.weight", _PATCHES),
        ("embedding.bias", "stem.proj.bias"),
        (qkv("kernel"), f"{_LAYER}.attn.qkv.weight", join),
        (qkv("bias"), f"{_LAYER}.attn.qkv.bias", join_bias),
        (f"{attention}.out.kernel", f"{_LAYER}.attn.proj.weight", out),
        (f"{attention}.out.bias", f"{_LAYER}.attn.proj.bias"),
        *_norm(f"{layer}.LayerNorm_0", f"{_LAYER}.norm1"),
        *_norm(f"{layer}.LayerNorm_2", f"{_LAYER}.norm2"),
        *_dense(f"{mlp}.Dense_0", f"{_LAYER}.mlp.fc1"),
        *_dense(f"{mlp}.Dense_1", f"{_LAYER}.mlp.fc2"),
        *_norm("Transformer.encoder_norm", "blocks.ln"),
        *_dense("head", CLASSIFIER),
        *_dense("pre_logits", _PRE_LOGITS),
    ]


def _norm(theirs: str, ours: str) -> list[Row]:
    return [(f"{theirs}.scale", f"{ours}.weight"), (f"{theirs}.bias", f"{ours}.bias")]


def _dense(theirs: str, ours: str) -> list[Row]:
    return [(f"{theirs}.kernel", f"{ours}.weight", _KERNEL), (f"{theirs}.bias", f"{ours}.bias")]


LAYOUTS: Layouts = {
    "classy_vision": Layout(_classy_vision),
    "torchvision": Layout(_torchvision, _BEFORE_0_14),
    "timm": Layout(_timm, _as_timm, dropped=["mask_token"]),
    "pycls": Layout(_pycls),
    "transformers": Layout(_TRANSFORMERS, [("dpt", "vit")]),
    "transformers_dinov2": Layout(
        _transformers_dinov2,
        _rename_dinov2,
        dropped=[f"{prefix}embeddings.mask_token" for prefix in (*_DINOV2_PREFIXES, "backbone.", "")],
    ),
    "transformers_dinov3": Layout(
        _transformers_dinov3, [("layer.{i}", _DINOV3_LAYER)], dropped=["embeddings.mask_token"]
    ),
    "transformers_siglip": Layout(
        _transformers_siglip, _SIGLIP_NAMES, dropped=["text_model", "logit_scale", "logit_bias"]
    ),
    "transformers_aimv2": Layout(
        _AIMV2,
        [(f"vision_model.{part}", part) for part in ("embeddings", "encoder", "rms_norm")],  # beside texts'
        dropped=["text_model", "visual_projection", "text_projection", "logit_scale"],
    ),
    "transformers_videomae": Layout(
        _VIDEOMAE, _VIDEOMAE_NAMES, dropped=["decoder", "encoder_to_decoder", "mask_token"]
    ),
    "transformers_vjepa2": Layout(
        _VJEPA2, [("encoder", "vjepa2.encoder")], dropped=["predictor", "vjepa2.predictor"]
    ),
    "google": Layout(_google),
    "swag": Layout(_swag),
}
