"""The families that there are, their presets, and an example of each."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from classy_vision.cost import OnMeta, count
from classy_vision.models import MODELS, ClassyModel, build_model
from classy_vision.presets import known_costs
from classy_vision.registry import Entry

from .markdown import paragraphs

CLASSES = 1000
"""Of the default head, where costs are counted."""

# Families without presets need something to show.
EXAMPLES: dict[str, dict[str, Any]] = {
    "anynet": {
        "name": "anynet",
        "depths": [1, 2, 4, 2],
        "widths": [32, 64, 160, 320],
        "group_widths": [16, 16, 16, 16],
        "bottleneck_multipliers": [1.0, 1.0, 1.0, 1.0],
        "strides": [2, 2, 2, 2],
    },
    "mlp": {"name": "mlp", "input_dim": 64, "output_dim": 16, "hidden_dims": [128, 128, 32]},
}


@dataclass(frozen=True)
class Family:
    """What one page is about: a registered class, and names that only restrict its config.

    Attributes:
        entry: the family.
        others: names without presets whose classes derive from it.
        presets: by name, with their values.
    """

    entry: Entry[ClassyModel]
    others: Sequence[Entry[ClassyModel]]
    presets: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def entries(self) -> list[Entry[ClassyModel]]:
        return sorted((self.entry, *self.others), key=lambda entry: entry.name)

    @property
    def title(self) -> str:
        return " and ".join(entry.cls.__name__ for entry in self.entries)

    @property
    def about(self) -> list[str]:
        """Paragraphs: what it is and who published it; how blocks are named."""
        return paragraphs(sys.modules[self.entry.cls.__module__]) or paragraphs(self.entry.cls)

    @cached_property
    def costs(self) -> dict[str, dict[str, Any]]:
        """Parameters, MACs and input by preset."""
        known = known_costs()
        return {preset: known.get(preset) or _counted(preset) for preset in self.presets}

    @cached_property
    def example(self) -> dict[str, Any] | None:
        """A small config: the preset with the fewest parameters, of images rather than clips, or one of
        ``EXAMPLES``."""
        if self.presets:
            sizes = {name: (len(cost["input_shape"]), cost["params"]) for name, cost in self.costs.items()}
            return {"name": min(sizes, key=sizes.__getitem__)}
        return EXAMPLES.get(self.name)


def families() -> dict[str, Family]:
    """The families there are, by name; a derived class without presets shares a page with its base."""
    named = {entry.name: entry for entry in MODELS if not entry.is_preset}
    presets = {name: {e.name: e.preset for e in MODELS if e.is_preset and e.family == name} for name in named}
    owner = {name: name if presets[name] else _owner(entry, named) for name, entry in named.items()}
    return {
        name: Family(entry, [named[o] for o in named if owner[o] == name and o != name], presets[name])
        for name, entry in sorted(named.items())
        if owner[name] == name
    }


def _owner(entry: Entry[ClassyModel], named: Mapping[str, Entry[ClassyModel]]) -> str:
    bases = {other.cls: name for name, other in named.items()}
    return next((bases[base] for base in entry.cls.__mro__[1:] if base in bases), entry.name)


def _counted(preset: str) -> dict[str, Any]:
    costs = count(outline({"name": preset, "num_classes": CLASSES}))
    return {"params": costs.params, "macs": costs.macs, "input_shape": list(costs.input_shape)}


def outline(config: Mapping[str, Any]) -> ClassyModel:
    """The model, without memory for its weights."""
    with OnMeta():
        return build_model(config).eval()
