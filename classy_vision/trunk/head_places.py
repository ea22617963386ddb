"""Where heads stand in state dicts, and which of them a published classifier is for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from classy_vision.config import ConfigError, unknown
from classy_vision.heads.classy_head import ClassyHead
from classy_vision.trunk.names import split_place
from classy_vision.trunk.trunk import END, Trunk
from classy_vision.weights.layout import CLASSIFIER, HEAD
from classy_vision.weights.state import StateError, head_of


def id_of(key: str) -> str | None:
    """The id of the head that a key of ours belongs to."""
    return key.split(".")[2] if head_of(key) else None


def ids_of(state: Iterable[str]) -> set[str]:
    return {name for name in map(id_of, state) if name is not None}


def find_skipped(model: Trunk, state: Mapping[str, Any], skip_heads: bool | Iterable[str]) -> set[str]:
    """The ids of heads to leave out, of the model's and of a file's."""
    known = ids_of(model.state_dict()) | ids_of(state)
    if isinstance(skip_heads, bool):
        return known if skip_heads else set()
    skip = {skip_heads} if isinstance(skip_heads, str) else set(skip_heads)
    for name in sorted(skip - known):
        raise unknown("head", name, sorted(known), "skip_heads")
    return skip


def find_misfits(model: Trunk, native: Mapping[str, Any]) -> set[str]:
    """The ids of the heads that ``native`` does not hold in their shape, and of those of others."""
    own = model.state_dict()
    wrong = (key for key in own if shape_of(own[key]) != shape_of(native.get(key)) and "num_batches" not in key)
    return ids_of(wrong) | (ids_of(native) - ids_of(own))


def find_end_heads(model: Trunk) -> dict[str, ClassyHead]:
    """The heads that read the end of the trunk and nothing else, by their place in the state dict."""
    return {
        f"heads.{block}.{head.unique_id}": head
        for block, heads in model.get_heads().items()
        if len(split_place(block)) == 1 and model._step(block) in (END, _default_block(model))
        for head in heads
        if head.classifier
    }


def _default_block(model: Trunk) -> str:
    """The step of the family's default head."""
    try:
        return model._step(type(model).default_head(model.config).get("fork_block", END))
    except ConfigError:  # the config takes no default head
        return END


def find_target(model: Trunk, head: str | None, lenient: bool) -> tuple[str, ClassyHead] | None:
    """The head that a published classifier is for; None if there are several and that is not an error."""
    ends = find_end_heads(model)
    if head is not None:
        ends = {name: entry for name, entry in ends.items() if entry.unique_id == head}
        if not ends:
            known = [entry.unique_id for entry in find_end_heads(model).values()]
            raise unknown("head", head, known, "a published classifier goes to a head at the end of the trunk")
    if len(ends) > 1 and lenient:
        return None
    if len(ends) > 1:
        names = ", ".join(entry.unique_id for entry in ends.values())
        raise StateError(
            f"several heads are at the end of the trunk ({names}): name the one that the file's "
            f"classifier is for, head=..."
        )
    return next(iter(ends.items()), None)


def to_real_key(ours: str, target: tuple[str, ClassyHead] | None) -> str | None:
    """The key of ours that a row means: its ``head`` is the target."""
    if not ours.startswith(HEAD):
        return ours
    if target is None:
        return None
    place, head = target
    if ours.startswith(CLASSIFIER):
        return f"{place}.{head.classifier}{ours.removeprefix(CLASSIFIER)}"
    return f"{place}.{ours.removeprefix(HEAD)}"


def to_virtual_key(key: str, ends: Mapping[str, ClassyHead]) -> str:
    """The inverse of ``to_real_key``."""
    place = head_of(key)
    if place is None or place not in ends:
        return key
    rest = key.removeprefix(f"{place}.")
    name = ends[place].classifier or ""
    return CLASSIFIER + rest.removeprefix(name) if rest.startswith(f"{name}.") else HEAD + rest


def shape_of(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None
