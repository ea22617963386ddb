"""The presets by name and what they cost, as counted when they were added; a test counts them anew.

Read from data, so that commands know names without the import of torch.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from classy_vision.registry import REGISTRIES, unknown_model

FILE = Path(__file__).with_name("cost") / "presets.json"


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
