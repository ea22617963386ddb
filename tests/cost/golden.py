"""Writes the costs of presets that the package ships: python -m tests.cost.golden"""

from __future__ import annotations

import json

from classy_vision.cost import Costs, OnMeta, count
from classy_vision.models import MODELS, build_model
from classy_vision.presets import FILE

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


if __name__ == "__main__":
    FILE.write_text(dump({preset: as_data(costs(preset)) for preset in PRESETS}))
