"""Vision transformers that a ``config.json`` of the library transformers describes.

Tensors alone do not show rotary positions, the epsilon of norms or the number of heads of the attention, so a
repository of that library is read with its config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from classy_vision.config import ConfigError, shown

Theirs = Mapping[str, Any]
Config = dict[str, Any]

_ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "silu": "swiglu"}
_SIZES: Config = {
    **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    **{"image_size": 224, "patch_size": 16, "num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
}
"""What a ``config.json`` may leave out. Other defaults stand with the type of model."""


def _read_sizes(theirs: Theirs) -> Config:
    activation = theirs["hidden_act"]
    if activation not in _ACTIVATIONS:
        raise ConfigError(
            f"hidden_act = {shown(activation)} of config.json is none of {', '.join(_ACTIVATIONS)}"
        )
    return {
        "name": "vision_transformer",
        "image_size": theirs["image_size"],
        "patch_size": theirs["patch_size"],
        "in_channels": theirs["num_channels"],
        "num_layers": theirs["num_hidden_layers"],
        "num_heads": theirs["num_attention_heads"],
        "hidden_dim": theirs["hidden_size"],
        "mlp_dim": theirs["intermediate_size"],
        "layer_norm_eps": theirs["layer_norm_eps"],
        "activation": _ACTIVATIONS[activation],
    }


def _read_vit(theirs: Theirs) -> Config:
    return {**_read_sizes(theirs), "qkv_bias": theirs.get("qkv_bias", True)}


def _read_dinov2(theirs: Theirs) -> Config:
    width = theirs["hidden_size"]
    inner = int(width * theirs.get("mlp_ratio", 4))
    gated = theirs.get("use_swiglu_ffn", False)
    registers = theirs.get("num_register_tokens", 0)
    return {
        **_read_vit(theirs),
        "mlp_dim": (int(inner * 2 / 3) + 7) // 8 * 8 if gated else inner,
        "activation": "swiglu" if gated else _ACTIVATIONS[theirs["hidden_act"]],
        "layer_scale": theirs.get("layerscale_value", 1.0),
        "num_register_tokens": registers,
        "pos_embed_prefix": not registers,
        "pos_embed_resize": "bicubic_antialias" if registers else "bicubic",
    }


def _read_dinov3(theirs: Theirs) -> Config:
    gated = theirs.get("use_gated_mlp", False)
    theta = theirs.get("rope_theta", (theirs.get("rope_parameters") or {}).get("rope_theta", 100.0))
    return {
        **_read_sizes(theirs),
        "activation": "swiglu" if gated else _ACTIVATIONS[theirs["hidden_act"]],
        "qkv_bias": "qv" if theirs.get("query_bias", True) else False,
        "layer_scale": theirs.get("layerscale_value", 1.0),
        "num_register_tokens": theirs.get("num_register_tokens", 0),
        "pos_embed": False,
        "rotary": {"kind": "centered", "temperature": theta, "halves": True},
    }


def _read_siglip(theirs: Theirs) -> Config:
    pooled = theirs.get("vision_use_head", True)
    classifier = {"classifier": "attention" if pooled else "gap", "class_token": False}
    return {**_read_sizes(theirs), **classifier}


def _read_aimv2(theirs: Theirs) -> Config:
    if theirs.get("is_native"):
        raise ConfigError("an AIMv2 with positions of the image's own size has no model here")
    if theirs.get("use_head", True):
        raise ConfigError("an AIMv2 that pools by attention has no model here")
    return {
        **_read_sizes({**theirs, "layer_norm_eps": theirs.get("rms_norm_eps", 1e-5)}),
        **{"norm_type": "rms", "patch_norm": True, "classifier": "gap", "class_token": False},
        "linear_bias": theirs.get("mlp_bias", False),
        "qkv_bias": theirs.get("qkv_bias", False),
    }


_TANH = {"hidden_act": "gelu_pytorch_tanh"}
_AIMV2 = {
    **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 8, "intermediate_size": 2816},
    **{"patch_size": 14, "hidden_act": "silu"},
}
_DINOV3 = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "layer_norm_eps": 1e-5}
_READERS: dict[str, tuple[Callable[[Theirs], Config], Config]] = {
    "vit": (_read_vit, {"layer_norm_eps": 1e-12}),
    "dinov2": (_read_dinov2, {"patch_size": 14}),
    "dinov2_with_registers": (_read_dinov2, {"num_register_tokens": 4}),
    "dinov3_vit": (_read_dinov3, _DINOV3),
    "siglip_vision_model": (_read_siglip, _TANH),
    "aimv2_vision_model": (_read_aimv2, _AIMV2),
}
"""By ``model_type``: what reads it, and the defaults that are its own."""
_TOWERS = {"siglip": "siglip_vision_model", "aimv2": "aimv2_vision_model"}
"""Types with a tower for texts beside that for images."""


def read_transformers_config(theirs: Theirs) -> Config | None:
    """Returns our config, without heads, for a ``config.json``; None where its type of model is not known.

    Raises:
        ConfigError: it describes what no model here is like.
    """
    kind = theirs.get("model_type")
    if kind in _TOWERS:
        tower = theirs.get("vision_config")
        if not isinstance(tower, (Mapping, type(None))):
            raise ConfigError(f"vision_config = {shown(tower)} of config.json is not a mapping")
        return read_transformers_config({**(tower or {}), "model_type": _TOWERS[kind]})
    if kind not in _READERS:
        return None
    read, defaults = _READERS[kind]
    try:
        return read({**_SIZES, **defaults, **theirs})
    except ConfigError:
        raise
    except (TypeError, ValueError, LookupError) as error:  # of values that are not what any model has
        raise ConfigError(f"config.json of model_type {kind!r} is damaged: {error}") from None
