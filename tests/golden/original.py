"""What classy_vision 0.7.0 builds from its presets and shipped configs."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
FAMILIES = ("AnyNet", "DenseNet", "EfficientNet", "MLP", "RegNet", "ResNe", "ViT", "VisionTransformer")


@cache
def entries() -> dict[str, dict[str, Any]]:
    """Per name: config, trunk parameters, ordered trunk keys with shapes, head keys."""
    with gzip.open(FOLDER / "keys.json.gz") as file:
        known: dict[str, dict[str, Any]] = json.load(file)["entries"]
    for entry in known.values():
        if "keys" not in entry:
            entry["keys"] = known[entry["keys_ref"]]["keys"]
    return {name: entry for name, entry in known.items() if entry["class"].startswith(FAMILIES)}


@cache
def initial_weights() -> dict[str, dict[str, Any]]:
    """Per name: digests of the weights that seed 0 gives."""
    known = json.loads((FOLDER / "init.json").read_text())["entries"]
    return {name: entry for name, entry in known.items() if name in entries()}
