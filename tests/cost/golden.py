"""Writes what the package knows of presets without torch, their costs and keys: python -m tests.cost.golden"""

from __future__ import annotations

import json

from classy_vision.config import config_of
from classy_vision.cost import Costs, OnMeta, count
from classy_vision.heads import HEADS
from classy_vision.models import MODELS, build_model
from classy_vision.models.classy_model import MODEL_KEYS
from classy_vision.presets import FILE, KEYS

PRESETS = [
    entry.name for entry in MODELS if entry.is_preset and entry.cls.__module__.startswith("classy_vision.")
]


def costs(preset: str) -> Costs:
    """Of the trunk and its default head for 1000 classes."""
    with OnMeta():
        model = build_model(preset, num_classes=1000)
    return count(model.eval())


def as_data(row: Costs) -> dict[str, object]:
    return {
        "params": row.params,
        "macs": row.macs,
        "activations": row.activations,
        "input_shape": list(row.input_shape),
    }


def families() -> dict[str, list[str]]:
    """Our families with their presets, in the order in which they are registered."""
    ours = [entry for entry in MODELS if entry.cls.__module__.startswith("classy_vision.")]
    found: dict[str, list[str]] = {entry.name: [] for entry in ours if not entry.is_preset}
    for entry in ours:
        if entry.is_preset:
            found[entry.family].append(entry.name)
    return found


def dump(rows: dict[str, dict[str, object]]) -> str:
    """Costs by preset, by family, as JSON with a line per preset."""
    parts = []
    for family, presets in families().items():
        lines = [f"    {json.dumps(name)}: {json.dumps(rows[name])}" for name in presets]
        inside = "{\n" + ",\n".join(lines) + "\n  }" if lines else "{}"
        parts.append(f"  {json.dumps(family)}: {inside}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def keys() -> str:
    """The keys of configs by family and by kind of head, as JSON."""
    models = {name: [*MODELS[name].cls.config_class.known_keys(), *MODEL_KEYS] for name in families()}
    ours = [entry for entry in HEADS if entry.cls.__module__.startswith("classy_vision.")]
    heads = {entry.name: config_of(entry.cls.__init__).known_keys() for entry in ours}
    parts = [
        f"  {json.dumps(kind)}: {{\n"
        + ",\n".join(f"    {json.dumps(n)}: {json.dumps(k)}" for n, k in rows.items())
        + "\n  }"
        for kind, rows in (("models", models), ("heads", heads))
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    KEYS.write_text(keys())
    FILE.write_text(dump({preset: as_data(costs(preset)) for preset in PRESETS}))
