"""Configs of models and heads, which build them again."""

from __future__ import annotations

import copy
import json
import pickle
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.heads import ClassyHead, FullyConnectedHead, build_head, register_head
from classy_vision.models import MODELS, ClassyModel, build_model, register_model
from classy_vision.trunk.trunk import ModelConfig
from tests.models.small import CASES, FAMILIES, batch, config

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
PRESETS = [entry.name for entry in MODELS if entry.is_preset]
QUICK = ["regnet_y_400mf", "efficientnet_b0", "vit_b_16", "resnet18"]


def shapes(model: ClassyModel) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


def build_again(model: ClassyModel, x: Tensor | None = None) -> dict[str, Any]:
    """The config of a model, from which the same model is built."""
    found = model.to_config()
    again = build_model(json.loads(json.dumps(found))).eval()
    assert shapes(again) == shapes(model)
    assert again.to_config() == found
    again.load_state_dict(model.state_dict())
    x = torch.rand(2, *model.input_shape) if x is None else x
    torch.testing.assert_close(again(x), model.eval()(x), rtol=0, atol=0)
    return found


@pytest.mark.parametrize(("family", "head"), CASES)
def test_every_family_with_every_head(family: str, head: str) -> None:
    given = config(family, head)
    found = build_again(build_model(given), batch())
    assert found["name"] == given["name"]
    assert found["heads"] == given["heads"]


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PRESETS]
)
def test_presets(name: str) -> None:
    with torch.device("meta"):
        model = build_model(name, num_classes=10)
        found = model.to_config()
        again = build_model(found)
    assert again.config == model.config
    assert shapes(again) == shapes(model)
    assert repr(again) == repr(model)
    assert found["heads"][0]["num_classes"] == 10


@pytest.mark.parametrize("kind", HEADS)
def test_options_of_heads(kind: str) -> None:
    head = {"name": kind, "unique_id": "a", "fork_block": "block1-0", **HEADS[kind]}
    plain = {"name": kind, "unique_id": "b", "fork_block": "trunk_output"}
    plain |= {"num_classes": 2} if kind != "identity" else {}
    found = build_again(build_model({**FAMILIES["resnet"][0], "heads": [head, plain]}), batch())
    assert found["heads"] == [head, plain]


def test_what_the_model_is_used_for() -> None:
    head = {"name": "fully_connected", "unique_id": "a", "num_classes": 2, "fork_block": "trunk_output"}
    use = {
        "tasks": {"a": {"kind": "classification", "classes": ["x", "y"]}},
        "preprocessing": {"image_size": 32},
    }
    given = {**FAMILIES["resnet"][0], "heads": [head], **use}
    assert build_again(build_model(given), batch()) == given


def test_heads_made_without_a_config() -> None:
    model = build_model(FAMILIES["resnet"][0])
    model.set_heads({"block0": [FullyConnectedHead("a", 2, conv_planes=8, activation=nn.Tanh())]})
    with pytest.raises(ConfigError, match="head 'a': no config can give activation = a Tanh"):
        model.to_config()
    model.set_heads({"block0": [FullyConnectedHead("a", 2, activation=nn.ReLU())]})
    plain = {"name": "fully_connected", "unique_id": "a", "num_classes": 2}
    assert model.to_config()["heads"] == [{**plain, "fork_block": "block0"}]
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.to_config() == model.to_config()
    assert FullyConnectedHead(unique_id="a", num_classes=2, in_plane=8).to_config() == plain
    assert build_head({**plain, "in_plane": 8}).to_config() == plain


class Forgetful(ClassyHead):
    """A head of a user, which keeps nothing of its options, and needs the channels of its block."""

    def __init__(self, unique_id: str, in_plane: int, widths: tuple[int, ...] = (4,)) -> None:
        super().__init__(unique_id, widths[-1])
        sizes = (in_plane, *widths)
        self.layers = nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in pairwise(sizes)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_heads_of_users() -> None:
    model = build_model(FAMILIES["resnet"][0])
    channels = model.feature_info(["block0"])["block0"].channels
    model.set_heads({"block0": [Forgetful("a", channels, widths=(6, 5))]})
    with pytest.raises(ConfigError, match=r"no config can name a Forgetful: .* register_head"):
        model.to_config()
    register_head("forgetful")(Forgetful)
    found = build_again(model, batch())
    head = {
        "name": "forgetful",
        "unique_id": "a",
        "in_plane": channels,
        "widths": [6, 5],
        "fork_block": "block0",
    }
    assert found["heads"] == [head]


def test_heads_with_a_from_config_of_their_own() -> None:
    @register_head("tall")
    class Tall(ClassyHead):
        def __init__(self, name: str, layers: nn.Module) -> None:
            super().__init__(name)
            self.layers = layers

        @classmethod
        def from_config(cls, config: Any) -> Tall:
            return cls(config["unique_id"], nn.Sequential(*(nn.Identity() for _ in range(config["height"]))))

    head = {"name": "tall", "unique_id": "a", "height": 3}
    assert build_head(head).to_config() == head
    assert len(build_head(build_head(head).to_config()).layers) == 3


def test_models_of_users() -> None:
    class Plain(ClassyModel):
        class Config(ModelConfig):
            width: int = 4

        config_class = Config

        def __init__(self, config: Any = None, **options: Any) -> None:
            super().__init__(config, **options)
            self.stem, self.tail = nn.Conv2d(3, self.config.width, 3), nn.Identity()
            self.blocks = nn.ModuleDict({"middle": nn.ReLU()})

    class Odd(Plain):
        @classmethod
        def from_config(cls, config: Any) -> Odd:
            return cls(width=2 * config["half"])

    model = Plain(width=8)
    with pytest.raises(ConfigError, match=r"no config can name a Plain: .* register_model"):
        model.to_config()
    register_model("plain")(Plain)
    register_model("odd", {"odd_6": {"half": 3}})(Odd)
    assert build_again(model, batch()) == {"name": "plain", "width": 8, "heads": []}
    with pytest.raises(ConfigError, match="Odd has a from_config of its own: build it with build_model"):
        Odd(width=8).to_config()
    assert build_again(build_model("odd_6"), batch()) == {"name": "odd", "half": 3, "heads": []}


def test_a_module_made_into_a_trunk() -> None:
    with pytest.raises(ConfigError, match="a model of from_model has no config: only code can make its Conv2d"):
        ClassyModel.from_model(nn.Conv2d(3, 4, 1)).to_config()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_is_parsed_once_and_each_head_is_built_once(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = config(family)
    parsed, built = [], []
    cls = MODELS[given["name"]].cls.config_class
    parse, init = cls.parse.__func__, FullyConnectedHead.__init__  # type: ignore[attr-defined]
    monkeypatch.setattr(cls, "parse", classmethod(lambda c, *a, **k: parsed.append(c) or parse(c, *a, **k)))
    monkeypatch.setattr(
        FullyConnectedHead, "__init__", lambda head, *a, **k: built.append(head) or init(head, *a, **k)
    )
    from classy_vision.config import config_of

    config_of.cache_clear()
    monkeypatch.setattr("classy_vision.heads.classy_head.config_of", lambda _: config_of(init))
    build_model(given)
    assert (len(parsed), len(built)) == (1, 2)


def test_an_option_whose_default_depends_on_another_is_kept() -> None:
    given = {"name": "resnext", "num_blocks": [1, 1], "init_planes": 8, "basic_layer": True, "heads": []}
    for reduction in (1, 4):
        model = build_model({**given, "reduction": reduction})
        again = build_model(model.to_config())
        assert again.config == model.config


def test_classes_beside_no_heads_make_a_head() -> None:
    backbone = build_model("resnet18", heads=[])
    assert not backbone.get_heads()
    config = backbone.to_config()
    assert config["heads"] == []
    with torch.device("meta"):
        model = build_model({**config, "num_classes": 7}).eval()
        assert model(torch.ones(1, 3, 32, 32)).shape == (1, 7)
