"""Writes the costs of presets that the package ships: python -m tests.cost.golden"""

from __future__ import annotations

import json

from classy_vision.cost import Costs, OnMeta, count
from classy_vision.cost.presets import FILE
from classy_vision.models import MODELS, build_model

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


if __name__ == "__main__":
    rows = {preset: costs(preset) for preset in PRESETS}
    lines = (f"  {json.dumps(name)}: {json.dumps(as_data(row))}" for name, row in rows.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
