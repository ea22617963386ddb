"""Parts of hand-written pages that come from code, between ``<!-- table: NAME -->`` and ``<!-- end -->``.

They stand in the repository as they are rendered; ``python -m docs._ext.pages`` writes them anew.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from typer.main import get_command

from classy_vision.cli import app
from classy_vision.data.config import SOURCES, DataConfig
from classy_vision.heads import HEADS
from classy_vision.models.schema import HEAD_KEYS, MODEL_KEYS, descriptions
from classy_vision.removed import ATTRIBUTES, NAMES
from classy_vision.train.config import TrainConfig
from classy_vision.trunk.trunk import ModelConfig

from . import costs, heads, published_weights, scale, trunks
from .fields import Schema, definitions, fields
from .markdown import code, fence, paragraphs, plain, table

MAPPING = {"type": "object"}
END = "<!-- end -->"
MARKER = re.compile(
    rf"^<!-- table: ([\w -]+) -->$(?:(?:(?!^<!-- table:).)*?^{END}$)?", re.MULTILINE | re.DOTALL
)

BUILT_MARKER = re.compile(r"^<!-- built: ([\w -]+) -->$", re.MULTILINE)


def expand(text: str) -> str:
    """``text`` with every marker, and what stands in the repository for it, replaced.

    Raises:
        KeyError: a marker that nothing is known by.
    """
    text = MARKER.sub(lambda marker: SECTIONS[marker[1]](), text)
    return BUILT_MARKER.sub(lambda marker: BUILT[marker[1]](), text)


def render(text: str) -> str:
    """``text`` with what comes from code between its markers, as it stands in the repository."""

    def filled(marker: re.Match[str]) -> str:
        return f"<!-- table: {marker[1]} -->\n\n{SECTIONS[marker[1]]().strip()}\n\n{END}"

    return MARKER.sub(filled, text)


# -- configs


def _model_keys() -> str:
    keys = definitions()["model.regnet"]["properties"]
    schema = {"properties": {key: keys[key] for key in (*MODEL_KEYS, *ModelConfig.model_fields)}}
    return fields(_named(schema), {"head": MAPPING})


def _head_keys() -> str:
    return fields({**_named({"properties": HEAD_KEYS}), "required": list(HEAD_KEYS)}, {})


def _named(schema: Schema) -> Schema:
    """``schema`` with a name that is a text."""
    keys = schema["properties"]
    return {"properties": {**keys, "name": {**keys["name"], "type": "string"}}, "required": ["name"]}


def _heads() -> str:
    defs = definitions()
    parts: list[str] = []
    for entry in HEADS:
        schema = defs[f"head.{entry.name}"]
        parts += [f"### {code(entry.name)}", *paragraphs(entry.cls)]
        if schema["properties"].keys() - HEAD_KEYS:
            needed = [key for key, entry in schema["properties"].items() if "default" not in entry]
            parts.append(fields({**schema, "required": needed}, defs, leave=HEAD_KEYS))
    return "\n\n".join(parts)


def _train() -> str:
    schema = definitions()["train"]
    texts = descriptions(TrainConfig)
    keys = {key: {**entry, "description": texts[key]} for key, entry in schema["properties"].items()}
    elsewhere = dict.fromkeys(("model", "ScheduleConfig", "WeightsConfig"), MAPPING)
    return fields({**schema, "properties": keys}, elsewhere)


def _data() -> str:
    """What all sources have, and for each what is its own."""
    shared = DataConfig.model_fields
    parts = [fields(_only("folder", list(shared)), {**definitions(), "ClipConfig": MAPPING})]
    for name, cls in SOURCES.items():
        parts += [f"### `source: {name}`", *paragraphs(cls)]
        own = [
            key
            for key, field in cls.model_fields.items()
            if key != "source" and (key not in shared or field.default != shared[key].default)
        ]
        if own:
            parts.append(fields(_only(name, own), definitions()))
    return "\n\n".join(parts)


def _only(source: str, keys: list[str]) -> Schema:
    schema = definitions()[SOURCES[source].__name__]
    return {**schema, "properties": {key: schema["properties"][key] for key in keys}}


def _section(name: str) -> Callable[[], str]:
    return lambda: fields(definitions()[name], definitions())


# -- what is gone


def _gone(rows: Mapping[str, str]) -> str:
    return table(("in ClassyVision", "here"), [(code(name), _marked(text)) for name, text in rows.items()])


def _marked(text: str) -> str:
    """``text`` with its code marked as such."""
    return re.sub(r"[\w.]+\([^()]*\)|\b(?:model|classy_vision)\.[\w.]+|\bmodel\(x\)", r"`\g<0>`", text)


# -- the command line


def _commands() -> str:
    group: Any = get_command(app)
    context = group.context_class(group, info_name="classy")
    commands = ((name, group.get_command(context, name)) for name in group.list_commands(context))
    return "\n\n".join(part for name, command in commands for part in _command(name, command, context))


def _command(name: str, command: Any, parent: Any) -> Iterator[str]:
    """A command; of a group, the commands in it."""
    context = command.context_class(command, info_name=name, parent=parent)
    for inner in getattr(command, "commands", ()):
        yield from _command(inner, command.get_command(context, inner), context)
    if hasattr(command, "commands"):
        return
    yield f"## `{context.command_path}`"
    yield fence("text", command.get_usage(context).removeprefix("Usage: "))
    yield from map(_prose, inspect.cleandoc(command.help).split("\n\n"))
    for title, rows in command.panels(context).items():
        rows = [(code(names), plain(text)) for names, text in rows if not names.startswith("-h,")]
        if rows:
            yield table((title.lower(), "meaning"), rows)


def _prose(text: str) -> str:
    return fence("yaml", text) if text.startswith("#") else plain(text)


SECTIONS: dict[str, Callable[[], str]] = {
    "model keys": _model_keys,
    "head keys": _head_keys,
    "heads": _heads,
    "head costs": heads.costs,
    "train": _train,
    "data": _data,
    "tasks": _section("TaskConfig"),
    "schedule": _section("ScheduleConfig"),
    "clip": _section("ClipConfig"),
    "weights": _section("WeightsConfig"),
    "gone attributes": lambda: _gone(ATTRIBUTES),
    "gone names": lambda: _gone(NAMES),
    "commands": _commands,
    "published costs": costs.agreement,
    "other costs": costs.differences,
    "regnet costs": costs.regnet,
    "left out": published_weights.left_out,
    "scale machine": scale.machine,
    "scale models": scale.models,
    "scale decoding": scale.decoding,
    "scale times": scale.times,
    "scale volumes": scale.volumes,
    "scale ray": scale.ray,
    **{f"trunks {i}": partial(trunks.advise, need) for i, need in enumerate(trunks.NEEDS, 1)},
}
BUILT: dict[str, Callable[[], str]] = {"published weights": published_weights.all_names}
"""What only the site has, ``<!-- built: NAME -->``: too long for the repository."""
