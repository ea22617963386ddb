"""Writes tests/golden/costs.json: python -m tests.cost.golden"""

from __future__ import annotations

import json
from pathlib import Path

from classy_vision.cost import Costs, OnMeta, count
from classy_vision.models import MODELS, build_model

FILE = Path(__file__).parents[1] / "golden" / "costs.json"
PRESETS = [
    entry.name for entry in MODELS if entry.is_preset and entry.cls.__module__.startswith("classy_vision.")
]


def costs(preset: str) -> Costs:
    """Of the trunk and its default head for 1000 classes."""
    with OnMeta():
        model = build_model(preset, num_classes=1000)
    return count(model.eval())


if __name__ == "__main__":
    rows = {preset: costs(preset) for preset in PRESETS}
    lines = (
        f"  {json.dumps(name)}: {json.dumps({'params': row.params, 'macs': row.macs})}"
        for name, row in rows.items()
    )
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
