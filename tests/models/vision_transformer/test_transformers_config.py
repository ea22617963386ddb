"""Our configs for those of transformers; tests/peers compares the models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from classy_vision.config import ConfigError
from classy_vision.models import build_model
from classy_vision.models.vision_transformer.transformers_config import read_transformers_config


@pytest.mark.parametrize(
    ("theirs", "options"),
    [
        ({"model_type": "vit"}, {"layer_norm_eps": 1e-12, "activation": "gelu", "mlp_dim": 3072}),
        ({"model_type": "dinov2", "use_swiglu_ffn": True}, {"mlp_dim": 2048, "activation": "swiglu"}),
        (
            {"model_type": "dinov2_with_registers"},
            {"num_register_tokens": 4, "pos_embed_prefix": False, "pos_embed_resize": "bicubic_antialias"},
        ),
        (
            {"model_type": "dinov3_vit", "rope_theta": 50.0},
            {"rotary": {"kind": "centered", "temperature": 50.0, "halves": True}, "qkv_bias": "qv"},
        ),
        (
            {"model_type": "siglip", "vision_config": {"hidden_size": 1152, "num_attention_heads": 16}},
            {"hidden_dim": 1152, "classifier": "attention", "activation": "gelu_tanh", "class_token": False},
        ),
        ({"model_type": "aimv2_vision_model", "use_head": False}, {"norm_type": "rms", "patch_norm": True}),
    ],
    ids=lambda value: value.get("model_type", ""),
)
def test_configs(theirs: dict[str, Any], options: dict[str, Any]) -> None:
    config = read_transformers_config(theirs)
    assert config is not None
    assert {key: config[key] for key in options} == options
    with torch.device("meta"):
        build_model(config)


def test_other_types_of_models() -> None:
    assert read_transformers_config({"model_type": "bert"}) is None
    assert read_transformers_config({}) is None


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        ({"model_type": "vit", "hidden_act": "relu"}, "hidden_act = 'relu' of config.json is none of gelu, "),
        ({"model_type": "vit", "hidden_act": ["gelu"]}, "config.json of model_type 'vit' is damaged"),
        ({"model_type": "siglip", "vision_config": "x"}, "vision_config = 'x' of config.json is not a mapping"),
        ({"model_type": "aimv2_vision_model"}, "an AIMv2 that pools by attention has no model here"),
        ({"model_type": "aimv2_vision_model", "is_native": True}, "with positions of the image's own size"),
    ],
)
def test_what_no_model_is_like(theirs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_transformers_config(theirs)
