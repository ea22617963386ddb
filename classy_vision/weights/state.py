"""Whether weights fit a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.weights.key_map import listed


class StateError(ConfigError, RuntimeError):
    """Weights that do not fit the model."""


def head_of(key: str) -> str | None:
    """``heads.<block>.<id>`` of a head's key; None for the trunk's."""
    return ".".join(key.split(".")[:3]) if key.startswith("heads.") else None


def check_fit(own: Mapping[str, Tensor], given: Mapping[str, Any], strict: bool, model: str) -> None:
    """Raises a StateError where ``given`` cannot be loaded into ``own``."""
    missing = [key for key in own if key not in given]
    left_over = [key for key in given if key not in own]
    shapes = [
        f"{key}: {tuple(getattr(given[key], 'shape', ()))} for {tuple(own[key].shape)}"
        for key in own
        if key in given and getattr(given[key], "shape", None) != own[key].shape
    ]
    parts = [f"{listed('shape', shapes)} differ"] if shapes else []
    if strict and missing:
        parts.append(f"{listed('key', missing)} missing")
    if strict and left_over:
        parts.append(f"{listed('key', left_over)} without a place")
    if parts:
        raise StateError(f"the weights do not fit this {model}: {'; '.join(parts)}")
