"""Model configs that may be anyone's: held to sizes that models have before anything is built from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, read_config

MAX_NUMBER = 200_000
"""The largest number and the longest list in a config: layers without weights take memory, too."""
OF_FILES = ("max_pixels", "value_range")
"""Keys of preprocessing whose numbers do not make anything larger that a model holds."""
DEPTHS = {"depth": 2000, "depths": 2000, "num_blocks": 2000, "num_layers": 2000, "depth_coefficient": 100}
"""The largest sums of numbers that say how many layers are made."""


def read_foreign_config(path: Path) -> dict[str, Any]:
    """The config in a file that may be anyone's.

    Raises:
        ConfigError: it is malformed, names files, or describes what no model is like.
    """
    config = read_config(path)
    check_values(config, str(path))
    return config


def check_values(config: Mapping[str, Any], where: str) -> None:
    """Raises unless anyone's config is of a size that models have, and names no files.

    Raises:
        ConfigError: says what is wrong with it.
    """
    if not isinstance(config.get("name"), str) or "weights" in config:
        wrong = "has a key 'weights'" if "weights" in config else "does not name its model"
        raise ConfigError(f"{where!r} {wrong}: it is not the config of a model that was saved")
    seen = config.get("preprocessing")
    if isinstance(seen, dict):
        config = {**config, "preprocessing": {key: seen[key] for key in seen if key not in OF_FILES}}
    if _largest(config) > MAX_NUMBER:
        raise ConfigError(f"{where!r} holds a number or a list beyond {MAX_NUMBER:,}")
    inner = config.get("model_params")
    for key, value in [*config.items(), *(inner.items() if isinstance(inner, dict) else ())]:
        if key in DEPTHS and _add(value) > DEPTHS[key]:
            raise ConfigError(f"{where!r}: {key} is more than {DEPTHS[key]:,} in all")


def _largest(value: Any) -> float:
    """The largest number or length in nested values."""
    if isinstance(value, (Mapping, list)):
        inner = value.values() if isinstance(value, Mapping) else value
        return max([len(value), *map(_largest, inner)])
    return abs(value) if isinstance(value, (int, float)) else 0


def _add(value: Any) -> float:
    values = value if isinstance(value, list) else [value]
    return sum(abs(v) for v in values if isinstance(v, (int, float)))
