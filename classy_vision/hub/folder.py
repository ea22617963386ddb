"""The folder of a model: config.json, model.safetensors and README.md. No code of it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from classy_vision.atomic import replacing
from classy_vision.config import system_error
from classy_vision.hub.card import LIBRARY
from classy_vision.run_files import WEIGHTS
from classy_vision.weights.files import write_tensors

CONFIG, CARD = "config.json", "README.md"


def write_folder(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], card: str) -> None:
    """Writes each file beside its place and renames it; a card that exists is kept.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, state, {"format": "pt", "library": LIBRARY})
        _write(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        if not (folder / CARD).exists():
            _write(folder / CARD, card)
    except OSError as error:
        raise system_error(error, f"cannot write {str(folder)!r}") from None


def _write(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
