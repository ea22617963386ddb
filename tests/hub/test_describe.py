"""Configs read from models."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from classy_vision.config import ConfigError
from classy_vision.heads import ClassyHead, FullyConnectedHead, register_head
from classy_vision.hub.describe import describe
from classy_vision.models import ClassyModel, build_model
from tests.models.small import FAMILIES

HEADS: dict[str, dict[str, Any]] = {
    "fully_connected": {
        "num_classes": 3,
        "conv_planes": 8,
        "activation": "silu",
        "zero_init_bias": True,
        "normalize_inputs": "l2",
        "dropout_rate": 0.25,
    },
    "fully_convolutional_linear": {
        "num_classes": 3,
        "pool_size": [1, 2, 2],
        "activation_func": "sigmoid",
        "use_dropout": True,
        "dropout_ratio": 0.25,
    },
    "identity": {},
    "vision_transformer_head": {"num_classes": 3, "hidden_dim": 8, "normalize_inputs": "l2"},
}


def same(config: dict[str, Any]) -> dict[str, Any]:
    """What describes the model of ``config``, which must build the same model."""
    model = build_model(config)
    found = describe(model)
    again = build_model(json.loads(json.dumps(found)))
    again.load_state_dict(model.state_dict())
    assert again.config == model.config
    assert repr(again) == repr(model)
    assert describe(again) == found
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str) -> None:
    assert same(FAMILIES[family][0])["name"] == family


@pytest.mark.parametrize("name", ["regnet_y_400mf", "efficientnet_b0", "vit_b_16", "resnet18", "densenet121"])
def test_presets(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name, num_classes=10)
        again = build_model(describe(model))
    assert again.config == model.config
    assert repr(again) == repr(model)


@pytest.mark.parametrize("kind", HEADS)
def test_heads(kind: str) -> None:
    head = {"name": kind, "unique_id": "a", "fork_block": "block1-0", **HEADS[kind]}
    plain = {"name": kind, "unique_id": "b", "fork_block": "trunk_output"}
    plain |= {"num_classes": 2} if kind != "identity" else {}
    found = same({**FAMILIES["resnet"][0], "heads": [head, plain]})
    wanted = {key: value for key, value in found["heads"][1].items() if key != "use_dropout"}
    assert [found["heads"][0], wanted] == [head, plain]


def test_heads_made_without_a_config() -> None:
    model = build_model(FAMILIES["resnet"][0])
    model.set_heads({"block0": [FullyConnectedHead("a", 2, conv_planes=8, activation=nn.Tanh())]})
    with pytest.raises(ConfigError, match="head 'a': no config can name the activation Tanh"):
        describe(model)
    model.set_heads({"block0": [FullyConnectedHead("a", 2)]})
    assert describe(model)["heads"] == [
        {"name": "fully_connected", "unique_id": "a", "num_classes": 2, "fork_block": "block0"}
    ]


def test_what_cannot_be_described() -> None:
    with pytest.raises(ConfigError, match="ModelAdapter has no name"):
        describe(ClassyModel.from_model(nn.Conv2d(3, 4, 1)))

    class Forgetful(ClassyHead):
        def __init__(self, unique_id: str, scale: float = 1.0) -> None:
            super().__init__(unique_id)

    model = build_model(FAMILIES["resnet"][0])
    model.set_heads({"block0": [Forgetful("a")]})
    with pytest.raises(ConfigError, match="Forgetful has no name"):
        describe(model)
    register_head("forgetful")(Forgetful)
    with pytest.raises(ConfigError, match="Forgetful keeps no attribute 'scale'"):
        describe(model)
