"""The presets by name and what they cost, as counted when they were added; a test counts them anew. With
them the keys of each family's config.

Read from data, so that commands know names and keys without the import of torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from classy_vision.config import UNREAD_KEYS
from classy_vision.errors import UnknownNameError, unknown
from classy_vision.registry import REGISTRIES, unknown_model

FILE = Path(__file__).with_name("cost") / "presets.json"
KEYS = Path(__file__).with_name("cost") / "keys.json"


@cache
def _families() -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def known_costs() -> dict[str, dict[str, Any]]:
    """Per preset ``input_shape``, and with the default head for 1000 classes ``params``, ``macs`` and
    ``activations``."""
    return {name: dict(costs) for presets in _families().values() for name, costs in presets.items()}


def families() -> dict[str, tuple[str, ...]]:
    """The presets by family, with those that were registered in this process."""
    found = {family: list(presets) for family, presets in _families().items()}
    for entry in REGISTRIES.get("model", ()):  # empty as long as nobody has imported the models
        presets = found.setdefault(entry.family, [])
        if entry.is_preset and entry.name not in presets:
            presets.append(entry.name)
    return {family: tuple(presets) for family, presets in found.items()}


def family_of(name: str) -> str:
    """The family of a preset, or of the family that is called so.

    Raises:
        UnknownNameError: no model is called so.
    """
    check_model(name)
    return next(family for family, presets in families().items() if name in (family, *presets))


def is_model(name: str) -> bool:
    """Whether a family or a preset is called so."""
    known = families()
    return name in known or any(name in presets for presets in known.values())


def check_model(name: str) -> None:
    """Raises where no model is called so.

    Raises:
        UnknownNameError: says what is near, or which families there are.
    """
    known = families()
    if not is_model(name):
        raise unknown_model(name, known, [*known, *(name for presets in known.values() for name in presets)])


def check_keys(config: Mapping[str, Any]) -> None:
    """Raises where a model config names no family or head, or has a key that these do not take.

    Once the models are imported, ``build_model`` checks that, and the values. Until then, which takes
    seconds, nothing else than ours can be registered. Published names and configs in the original's style
    pass.

    Raises:
        UnknownNameError: says what is near.
    """
    name, heads = config.get("name"), config.get("heads")
    heads = [head for head in heads if isinstance(head, Mapping)] if isinstance(heads, (list, tuple)) else []
    if "model" in REGISTRIES or any("in_plane" in head for head in heads):
        return
    if not isinstance(name, str) or "/" in name:
        return
    known: dict[str, dict[str, list[str]]] = json.loads(KEYS.read_text(encoding="utf-8"))
    wrong = _list_unknown(config, known["models"][family_of(name)], name)
    for head in heads:
        kind = head.get("name")
        if isinstance(kind, str) and kind not in known["heads"]:
            raise unknown("head", kind, known["heads"])
        wrong += _list_unknown(head, known["heads"].get(str(kind), head), f"head {kind!r}")
    if wrong:
        raise UnknownNameError("\n".join(wrong))


def _list_unknown(given: Mapping[str, Any], known: Iterable[str], where: str) -> list[str]:
    passes = {"name", "fork_block", *known, *UNREAD_KEYS}
    return [str(unknown("key", key, known, where)) for key in given if key not in passes]
