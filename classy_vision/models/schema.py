"""The JSON Schema of configs, made from the registries: what an editor completes and checks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from classy_vision.config import config_of
from classy_vision.heads.classy_head import HEADS, ClassyHead
from classy_vision.models.classy_model import MODELS
from classy_vision.weights.catalogue import HUB, SOURCES

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

MODEL_KEYS: Mapping[str, Schema] = {
    "name": {"description": "A family; a preset or published weights, whose values the other keys replace."},
    "heads": {
        "description": "The heads, each on the block that it names.",
        "type": "array",
        "items": {"$ref": "#/$defs/head"},
    },
    "num_classes": {
        "description": "Short for the family's default head with so many classes at trunk_output "
        "(of a distilled vision transformer: at ln).",
        "anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}],
    },
    "weights": {
        "description": "A file, a run folder, published weights (timm/resnet50.a1_in1k), or "
        "hf-hub:owner/repository; true for those of the name.",
        "anyOf": [{"type": "string"}, {"type": "object"}, {"const": True}, {"type": "null"}],
    },
}
PUBLISHED = "Published weights, which stand for their network; classy weights list shows them."
HEAD_KEYS: Mapping[str, Schema] = {
    "name": {"description": "The kind of head."},
    "unique_id": {"description": "The head's name in the outputs.", "type": ["string", "integer"]},
    "fork_block": {
        "description": "The block that it reads, or several in a list; classy show lists them.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
    },
}


def model_schema() -> Schema:
    """The schema of a model config: every family and preset with its keys and defaults.

    A key that a family, preset or head does not take is refused.
    """
    return {"$schema": DIALECT, "title": "Model config", "$ref": "#/$defs/model", "$defs": _definitions()}


def config_schema(train: type[BaseModel]) -> Schema:
    """The schema of a file with a training config, told by its key ``model``, or a model config.

    Args:
        train: the training config; its section ``model`` follows the model's schema.
    """
    defs = _definitions()
    defs["train"] = _with_keys(_schema(train, defs), {"model": _reference("model")})
    return {
        "$schema": DIALECT,
        "title": "Model or training config",
        "if": {"required": ["model"]},
        "then": _reference("train"),
        "else": _reference("model"),
        "$defs": defs,
    }


def descriptions(documented: type) -> dict[str, str]:
    """What docstrings say about each parameter or attribute, those of base classes included.

    An entry is "name: text" or "name, name: text", indented below "Args:" or "Attributes:".
    """
    texts: dict[str, str] = {}
    for cls in reversed(documented.__mro__):
        text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
        for section in re.findall(r"^(?:Args|Attributes):\n((?: +.*\n?|\n)+)", text, re.MULTILINE):
            for names, words in re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", section, re.MULTILINE):
                texts.update(dict.fromkeys(names.split(", "), " ".join(words.split())))
    return texts


def _definitions() -> Schema:
    """``$defs``: model, head, and one for every family, kind of head and shared type."""
    defs: Schema = {}
    heads = {entry.name: _head(entry.name, entry.cls, defs) for entry in HEADS}
    models: Schema = {}
    for entry in MODELS:
        if entry.is_preset:
            defaults = {key: {"default": value} for key, value in entry.preset.items()}
            models[entry.name] = {**_reference(f"model.{entry.family}"), "properties": defaults}
        else:
            models[entry.name] = _family(entry.name, entry.cls.config_class, defs)
    return {"model": _or_published(_choice("name", models)), "head": _choice("name", heads), **defs}


def _family(name: str, config: type[BaseModel], defs: Schema) -> Schema:
    schema = _with_keys(_schema(config, defs), MODEL_KEYS)
    required = schema.pop("required", [])  # a preset has them all
    defs[f"model.{name}"] = schema
    return {**_reference(f"model.{name}"), "required": required}


def _head(name: str, cls: type[ClassyHead], defs: Schema) -> Schema:
    schema = _with_keys(_schema(config_of(cls.__init__), defs, cls), HEAD_KEYS)
    # A training config leaves the number of classes to the data.
    required = set(schema.get("required", ())) - {"num_classes"}
    schema["required"] = sorted({*HEAD_KEYS, *required})
    defs[f"head.{name}"] = schema
    return _reference(f"head.{name}")


def _or_published(model: Schema) -> Schema:
    """``model``, with the names of published weights; of the keys beside them only ours are checked."""
    published = {"type": "string", "pattern": f"^(({'|'.join(SOURCES)})/|{HUB})"}
    name = {"anyOf": [model["properties"]["name"], {**published, "description": PUBLISHED}]}
    rule = {"if": {"properties": {"name": published}}, "then": {"properties": MODEL_KEYS}}
    return {**model, "properties": {"name": name}, "allOf": [*model["allOf"], rule]}


def _with_keys(schema: Schema, keys: Mapping[str, Schema]) -> Schema:
    return {**schema, "properties": {**keys, **schema.get("properties", {}), **keys}}


def _choice(key: str, schemas: Mapping[str, Schema]) -> Schema:
    """An object whose ``key`` says which of the schemas it follows."""
    return {
        "type": "object",
        "required": [key],
        "properties": {key: {"enum": list(schemas)}},
        "allOf": [
            {"if": {"properties": {key: {"const": value}}}, "then": schema} for value, schema in schemas.items()
        ],
    }


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _schema(config: type[BaseModel], defs: Schema, documented: type | None = None) -> Schema:
    """The schema of ``config``; types that it shares with others go into ``defs``."""
    schema = config.model_json_schema(schema_generator=_Documented)
    defs.update(schema.pop("$defs", {}))
    return _describe(schema, documented) if documented else schema


def _describe(schema: Schema, documented: type) -> Schema:
    schema["description"] = " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())
    texts = descriptions(documented)
    for name, entry in schema.get("properties", {}).items():
        entry.pop("title", None)
        if name in texts:
            entry["description"] = texts[name]
    return schema


class _Documented(GenerateJsonSchema):
    """Takes descriptions from docstrings."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return _describe(super().model_schema(schema), schema["cls"])

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        assert isinstance(schema["discriminator"], str)
        choices = {str(tag): self.generate_inner(choice) for tag, choice in schema["choices"].items()}
        return _choice(schema["discriminator"], choices)

    def handle_invalid_for_json_schema(
        self, schema: core_schema.CoreSchema, error_info: str
    ) -> JsonSchemaValue:
        return {}  # a type that JSON does not know, of a head registered elsewhere: anything
