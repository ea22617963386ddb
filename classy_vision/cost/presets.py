"""The costs of the presets, as counted when they were added; a test counts them anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("presets.json")


def known_costs() -> dict[str, dict[str, Any]]:
    """Per preset ``input_shape``, and with the default head for 1000 classes ``params``, ``macs`` and
    ``activations``."""
    known: dict[str, dict[str, Any]] = json.loads(FILE.read_text())
    return known
