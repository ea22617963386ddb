"""Tables of config keys, from the JSON Schema that ``classy schema`` writes."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from classy_vision.models.schema import config_schema
from classy_vision.train.config import TrainConfig

from .markdown import code, plain, table

Schema = Mapping[str, Any]
HEADINGS = ("key", "type", "default", "meaning")
HUGE = 1e9
"""Bounds above it are those of the machine."""


def definitions() -> dict[str, Schema]:
    """Every part of the schema by name: "model.regnet", "head.identity", "train", …"""
    defs: dict[str, Schema] = config_schema(TrainConfig)["$defs"]
    # A family's required keys are not in its own part: a preset has them.
    for choice in defs["model"]["allOf"]:
        if "required" in choice["then"]:
            name = _name(choice["then"])
            defs[name] = {**defs[name], "required": choice["then"]["required"]}
    return defs


def fields(
    schema: Schema, defs: Mapping[str, Schema], leave: Collection[str] = (), last: Sequence[str] = ()
) -> str:
    """A row per key, and a table for every type that has keys of its own.

    Args:
        schema: of a config.
        defs: what it refers to.
        leave: keys that have no row.
        last: keys at the end; the required ones come first.
    """
    keys = {key: entry for key, entry in schema["properties"].items() if key not in leave}
    required = schema.get("required", ())
    order = sorted(keys, key=lambda key: (key in last, key not in required))
    rows = [_row(key, keys[key], key in required, defs) for key in order]
    parts = [table(HEADINGS, rows)]
    for name in dict.fromkeys(name for entry in keys.values() for name in _nested(entry, defs)):
        parts += [f"`{name}`: {defs[name]['description']}", fields(defs[name], defs)]
    return "\n\n".join(parts)


def _row(key: str, entry: Schema, required: bool, defs: Mapping[str, Schema]) -> tuple[str, ...]:
    default = "required" if required else code(_python(entry.get("default")))
    if isinstance(entry.get("default"), dict):
        default = ""
    return code(key), words(entry, defs), default, plain(entry.get("description", ""))


def _python(value: Any) -> str:
    """As in Python, but with the quotes of JSON."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _nested(entry: Schema, defs: Mapping[str, Schema]) -> list[str]:
    """The types in ``entry`` that have keys of their own."""
    if "$ref" in entry:
        name = _name(entry)
        return [name] if "properties" in defs[name] else []
    inner = [*entry.get("anyOf", ()), *([entry["items"]] if isinstance(entry.get("items"), dict) else ())]
    return [name for part in inner for name in _nested(part, defs)]


def _name(entry: Schema) -> str:
    return str(entry.get("$ref")).rpartition("/")[2]


def words(entry: Schema, defs: Mapping[str, Schema]) -> str:
    """What values a schema takes: "int > 0", "list of str", '"a" or "b"'."""
    if "$ref" in entry:
        target = defs[_name(entry)]
        return code(_name(entry)) if "properties" in target else words(target, defs)
    if "anyOf" in entry:
        return _either([words(part, defs) for part in entry["anyOf"]])
    if "const" in entry or "enum" in entry:
        return _either([code(_python(value)) for value in entry.get("enum", [entry.get("const")])])
    if isinstance(entry.get("type"), list):
        return _either([words({"type": kind}, defs) for kind in entry["type"]])
    kind = str(entry.get("type"))
    if kind == "array" and "prefixItems" in entry:
        return f"[{', '.join(words(part, defs) for part in entry['prefixItems'])}]"
    if kind == "array":
        return f"list of {words(entry.get('items', {}), defs)}"
    if kind in ("integer", "number"):
        return _bounded("int" if kind == "integer" else "float", entry)
    return {"string": "str", "boolean": "bool", "null": "`None`", "object": "mapping"}.get(kind, "anything")


def _either(choices: Sequence[str]) -> str:
    *most, last = dict.fromkeys(choices)
    return f"{', '.join(most)} or {last}" if most else last


def _bounded(kind: str, entry: Schema) -> str:
    low = next((b for k, s in _LOW if (b := _bound(entry, k, s))), None)
    high = next((b for k, s in _HIGH if (b := _bound(entry, k, s))), None)
    if low and not high:  # "int > 0" reads better than "0 < int"
        return f"{kind} {'≥' if low[0] == '≤' else '>'} {low[1]}"
    return (f"{low[1]} {low[0]} " if low else "") + kind + (f" {high[0]} {high[1]}" if high else "")


_LOW = (("exclusiveMinimum", "<"), ("minimum", "≤"))
_HIGH = (("exclusiveMaximum", "<"), ("maximum", "≤"))


def _bound(entry: Schema, key: str, sign: str) -> tuple[str, str] | None:
    return (sign, f"{entry[key]:g}") if key in entry and abs(entry[key]) < HUGE else None
