"""The JSON Schema accepts what build_model accepts, and refuses what it refuses."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field

from classy_vision.config import Config, ConfigError, PositiveInt
from classy_vision.cost import OnMeta
from classy_vision.heads import HEADS, ClassyHead, FullyConnectedHead
from classy_vision.models import MODELS, build_model
from classy_vision.models.resnext import ResNeXtConfig
from classy_vision.models.schema import config_schema, descriptions, model_schema

SCHEMA = json.loads(json.dumps(model_schema()))
VALIDATOR = Draft202012Validator(SCHEMA)
HEAD = {"name": "fully_connected", "unique_id": "a", "num_classes": 3, "fork_block": "trunk_output"}
ANYNET = {
    "name": "anynet",
    "depths": [1],
    "widths": [8],
    "group_widths": [8],
    "bottleneck_multipliers": [1.0],
    "strides": [2],
}


class Folder(Config):
    """Images in a folder.

    Attributes:
        root: where they are.
    """

    source: Literal["folder"] = "folder"
    root: str


class Table(Config):
    """Images in a table."""

    source: Literal["table"] = "table"


class Job(Config):
    """A job.

    Attributes:
        model: the model.
    """

    model: dict[str, Any]
    data: Annotated[Folder | Table, Field(discriminator="source")]
    epochs: PositiveInt = 3


def complaints(config: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(config)]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator.check_schema(config_schema(Job))


@pytest.mark.parametrize("name", [entry.name for entry in MODELS if entry.is_preset])
def test_presets_need_their_name_only(name: str) -> None:
    assert not complaints({"name": name})
    assert not complaints({"name": name, "num_classes": 3, "stochastic_depth": 0.1})
    assert complaints({"name": name, "stochastik_depth": 0.1})


@pytest.mark.parametrize(
    "config",
    [
        ANYNET,
        {**ANYNET, "heads": [HEAD]},
        {"name": "resnet50", "heads": [HEAD, {**HEAD, "unique_id": 1, "fork_block": "block2"}]},
        {"name": "timm/resnet50.a1_in1k", "in_channels": 1, "num_classes": 3},
        {"name": "torchvision/vit_b_16.IMAGENET1K_V1", "heads": [HEAD]},
        {"name": "resnet50", "base_width_and_cardinality": [4, 32], "num_classes": None},
        {"name": "regnet_y_400mf", "activation": "silu", "w_a": 30},
        {
            "name": "resnet50",
            "heads": [{**HEAD, "name": "fully_convolutional_linear", "pool_size": [1, 7, 7]}],
        },
    ],
)
def test_good_configs(config: dict[str, Any]) -> None:
    assert not complaints(config)
    with OnMeta():
        build_model(config)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({}, "'name' is a required property"),
        ({"name": "resnet5"}, r"\$\.name: 'resnet5' is not valid"),
        ({"name": "tim/resnet50.a1_in1k"}, r"\$\.name: 'tim/resnet50.a1_in1k' is not valid"),
        ({"name": "timm/resnet50.a1_in1k", "num_classes": 0}, r"\$\.num_classes: 0 is"),
        ({"name": "regnet"}, "'depth' is a required property"),
        ({"name": "regnet_y_400mf", "dpeth": 3}, "'dpeth' was unexpected"),
        ({"name": "regnet_y_400mf", "depth": 0}, r"\$\.depth: 0 is less than or equal"),
        ({"name": "regnet_y_400mf", "activation": "tanh"}, r"\$\.activation: 'tanh' is not one of"),
        ({"name": "resnet50", "num_classes": "10"}, r"\$\.num_classes"),
        ({"name": "resnet50", "heads": HEAD}, r"\$\.heads: .* is not of type 'array'"),
        ({"name": "resnet50", "heads": [{**HEAD, "num_clases": 3}]}, "'num_clases' was unexpected"),
        (
            {"name": "resnet50", "heads": [{**HEAD, "name": "fc"}]},
            r"\$\.heads\[0\]\.name: 'fc' is not one of",
        ),
        ({"name": "resnet50", "heads": [{"name": "identity"}]}, "'fork_block' is a required property"),
    ],
)
def test_bad_configs(config: dict[str, Any], complaint: str) -> None:
    found = complaints(config)
    assert len(found) >= 1
    assert any(re.search(complaint, line) for line in found), found
    with pytest.raises((ConfigError, TypeError)):
        build_model(config)


def test_every_name_is_there() -> None:
    defs = SCHEMA["$defs"]
    names, _ = defs["model"]["properties"]["name"]["anyOf"]
    assert names["enum"] == [entry.name for entry in MODELS]
    assert defs["head"]["properties"]["name"]["enum"] == [entry.name for entry in HEADS]
    for entry in MODELS:
        keys = defs[f"model.{entry.name}"]["properties"] if not entry.is_preset else {}
        assert all("description" in value for value in keys.values()), entry.name


def test_defaults_and_descriptions() -> None:
    regnet = SCHEMA["$defs"]["model.regnet"]
    assert regnet["properties"]["stem_width"]["default"] == 32
    assert regnet["properties"]["depth"]["description"] == "blocks in all."
    preset = next(
        rule["then"]
        for rule in SCHEMA["$defs"]["model"]["allOf"]
        if rule["if"]["properties"]["name"].get("const") == "regnet_y_400mf"
    )
    assert preset["properties"]["depth"] == {"default": 16}


def test_descriptions_come_from_docstrings() -> None:
    texts = descriptions(ResNeXtConfig)
    assert texts["use_se"] == texts["se_reduction_ratio"] != ""
    assert texts["in_channels"] == "channels of the input."
    assert texts["num_blocks"] == "blocks per stage."
    assert descriptions(FullyConnectedHead)["num_classes"].startswith("the number of logits")


def test_a_head_registered_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HEADS, "_entries", dict(HEADS._entries))

    @HEADS.register("callable_head")
    class CallableHead(ClassyHead):
        def __init__(self, unique_id: str, scale: complex, slope: float = 1.0) -> None:
            super().__init__(unique_id)

    validator = Draft202012Validator(model_schema())
    head = {"name": "callable_head", "unique_id": "a", "fork_block": "stem", "scale": "anything"}
    assert validator.is_valid({"name": "resnet18", "heads": [head]})
    assert not validator.is_valid({"name": "resnet18", "heads": [{**head, "slop": 1.0}]})


def test_training_configs() -> None:
    schema = config_schema(Job)
    job = {"model": {"name": "resnet18"}, "data": {"source": "folder", "root": "here"}}
    validator = Draft202012Validator(schema)
    assert validator.is_valid(job)
    assert validator.is_valid(job["model"])
    for wrong in (
        {"model": {"name": "resnet18", "depht": 1}},
        {"data": {"root": "here"}},
        {"data": {"source": "folder"}},
        {"data": {"source": "table", "root": "here"}},
        {"data": {"source": "web"}},
        {"epochs": 0},
        {"epoch": 3},
    ):
        assert not validator.is_valid({**job, **wrong}), wrong
    assert schema["$defs"]["Folder"]["properties"]["root"]["description"] == "where they are."
