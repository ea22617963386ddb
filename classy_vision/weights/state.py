"""Whether weights fit a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.weights.key_map import list_names


class StateError(ConfigError, RuntimeError):
    """Weights that do not fit the model."""


def head_of(key: str) -> str | None:
    """``heads.<block>.<id>`` of a head's key; None for the trunk's."""
    return ".".join(key.split(".")[:3]) if key.startswith("heads.") else None


def check_fit(own: Mapping[str, Any], given: Mapping[str, Any], strict: bool, assign: bool, model: str) -> None:
    """Raises a StateError if ``given`` cannot be loaded into ``own``.

    What a module keeps beside tensors is checked by the module, and torch fills in the counts of
    batches that old files do not have.
    """
    tensors = {key: value for key, value in own.items() if isinstance(value, Tensor)}
    missing = [key for key in tensors if key not in given and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in given if key not in own]
    no_tensors = [key for key in tensors if key in given and not isinstance(given[key], Tensor)]
    shapes = [
        f"{key}: {tuple(given[key].shape)} for {tuple(value.shape)}"
        for key, value in tensors.items()
        if isinstance(given.get(key), Tensor) and given[key].shape != value.shape
    ]
    parts = [f"{list_names('shape', shapes)} differ"] if shapes else []
    if no_tensors:
        parts.append(f"{list_names('key', no_tensors)} without a tensor")
    if strict and missing:
        parts.append(f"{list_names('key', missing)} missing")
    if strict and unexpected:
        parts.append(f"{list_names('key', unexpected)} unexpected")
    if not assign and any(t.is_meta and not given[k].is_meta for k, t in tensors.items() if k in given):
        parts.append("the model is on the meta device and holds no weights: pass assign=True")
    if parts:
        raise StateError(f"the weights do not fit this {model}: {'; '.join(parts)}")
