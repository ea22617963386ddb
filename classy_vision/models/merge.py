"""Heads of several models with the same trunk, joined on one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.models.classy_model import ClassyModel, build_model
from classy_vision.weights.state import head_of

ONLY_IN_TRAINING = frozenset(("stochastic_depth", "gradient_checkpointing"))
"""Options of trunks that change nothing in evaluation."""
BESIDE = frozenset(("heads", "tasks"))
"""Keys of a config that may differ."""


def merge_heads(models: Mapping[str, ClassyModel]) -> ClassyModel:
    """Joins the heads of models that have the same trunk.

    A head that several of them have alike, as runs do that began with the same weights, is taken once.

    Args:
        models: two or more, by what messages call them.

    Returns:
        A new model, with the outputs that each head had before, and what they mean.

    Raises:
        ConfigError: trunks, their inputs, or heads of the same id differ.
    """
    (first, base), *others = models.items()
    config, state = base.to_config(), dict(base.state_dict())
    config["heads"], config["tasks"] = list(config["heads"]), dict(config.get("tasks", {}))
    origins = {head["unique_id"]: first for head in config["heads"]}
    for name, model in others:
        theirs, tensors = model.to_config(), model.state_dict()
        _check_trunks(first, state, name, tensors)
        _check_configs(first, config, name, theirs)
        for head in theirs["heads"]:
            head_id = head["unique_id"]
            if head_id in origins:
                _check_same(head, config["heads"], state, tensors, (origins[head_id], name))
                continue
            origins[head_id] = name
            config["heads"].append(head)
            if task := theirs.get("tasks", {}).get(head_id):
                config["tasks"][head_id] = task
            state |= {key: value for key, value in tensors.items() if _id_of(key) == head_id}
    merged = build_model(config)
    merged.load_state_dict(state)
    return merged.eval()


def _id_of(key: str) -> str:
    """The id of the head that a tensor is of; "" for the trunk's."""
    return (head_of(key) or "").rpartition(".")[2]


def _check_trunks(first: str, ours: Mapping[str, Tensor], second: str, theirs: Mapping[str, Tensor]) -> None:
    """Raises a ConfigError that names the first tensor that differs."""
    trunks = [{key: value for key, value in state.items() if not _id_of(key)} for state in (ours, theirs)]
    for key in dict.fromkeys([*trunks[0], *trunks[1]]):
        a, b = trunks[0].get(key), trunks[1].get(key)
        if a is not None and b is not None and torch.equal(a, b):
            continue
        how = f"is in only one of them, {first if b is None else second!r}"
        if a is not None and b is not None:
            how = f"has the shapes {tuple(a.shape)} and {tuple(b.shape)}"
            if a.shape == b.shape:
                how = f"differs by up to {float((a.double() - b.double()).abs().max()):.3g}"
        raise ConfigError(
            f"the trunks of {first!r} and {second!r} are not the same: {key} {how}. Heads can be merged of "
            f"runs that began with the same weights and schedule.freeze: {{until: trunk_output}}"
        )


def _check_configs(first: str, ours: Mapping[str, Any], second: str, theirs: Mapping[str, Any]) -> None:
    for key in sorted((ours.keys() | theirs.keys()) - ONLY_IN_TRAINING - BESIDE):
        a, b = ours.get(key), theirs.get(key)
        if key == "preprocessing" and isinstance(a, dict) and isinstance(b, dict):
            part = next((part for part in sorted(a.keys() | b.keys()) if a.get(part) != b.get(part)), None)
            key, a, b = (f"{key}.{part}", a.get(part), b.get(part)) if part else (key, None, None)
        if a != b:
            raise ConfigError(f"{first!r} and {second!r} cannot share a trunk: {key} is {a!r} and {b!r}")


def _check_same(
    head: Mapping[str, Any],
    there: list[dict[str, Any]],
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    origins: tuple[str, str],
) -> None:
    """Raises where a head of an id that is there is not the same one."""
    name = head["unique_id"]
    mine = {key: value for key, value in ours.items() if _id_of(key) == name}
    other = {key: value for key, value in theirs.items() if _id_of(key) == name}
    same = mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)
    if not same or dict(head) not in there:
        raise ConfigError(
            f"{origins[0]!r} and {origins[1]!r} both have a head {name!r}, and these differ: train one of them "
            f"under another unique_id"
        )
