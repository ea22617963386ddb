"""The original ClassyVision's containers: the classy state, its checkpoint, its raw state dict.

classy state:    {"model": {"trunk": {...}, "heads": {block: {id: {...}}}}, "version": 0.2}
checkpoint:      {"classy_state_dict": {"base_model": classy state}, "input_args": {"config": ...}}
raw state dict:  trunk keys with "._module" behind every block that has a head, and
                 "_heads.<block>.<id>.<key>"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.weights.key_map import KeyMap
from classy_vision.weights.state import head_of

State = dict[str, Tensor]
Heads = dict[str, dict[str, State]]


def checkpoint_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The model's config in a checkpoint of the original.

    Raises:
        ConfigError: there is none.
    """
    try:
        return dict(checkpoint["input_args"]["config"]["model"])
    except (KeyError, TypeError):
        raise ConfigError(
            "the checkpoint does not say which model it is of (input_args.config.model); build "
            "the model with build_model(config) and use model.set_classy_state(checkpoint)"
        ) from None


def unpack(state: Mapping[str, Any]) -> tuple[State, Heads] | None:
    """Trunk and heads of a checkpoint, a classy state or a raw state dict; None for others."""
    if "classy_state_dict" in state:
        state = state["classy_state_dict"]
    if "base_model" in state:
        state = state["base_model"]
    if "model" in state:
        state = state["model"]
    if "trunk" in state:
        return dict(state["trunk"]), {b: dict(h) for b, h in state.get("heads", {}).items()}
    if any(key.startswith("_heads.") for key in state):
        return _without_wrappers(state)
    return None


def _without_wrappers(state: Mapping[str, Any]) -> tuple[State, Heads]:
    trunk: State = {}
    heads: Heads = {}
    for key, value in state.items():
        if key.startswith("_heads."):
            _, block, head, rest = key.split(".", 3)
            heads.setdefault(block, {}).setdefault(head, {})[rest] = value
    for key, value in state.items():
        if not key.startswith("_heads."):
            path = f".{key}"
            for block in heads:
                path = path.replace(f".{block}._module.", f".{block}.", 1)
            trunk[path[1:]] = value
    return trunk, heads


def to_native(state: Mapping[str, Any], key_map: KeyMap | None, native: set[str]) -> State:
    """A flat state dict in our layout from any container, in the original's layout or ours.

    Args:
        state: what a user may hand over.
        key_map: the trunk's names in the original's layout; None where they are ours.
        native: the names in our layout, to tell the layouts apart.
    """
    packed = unpack(state)
    flat, heads = packed if packed is not None else (dict(state), {})
    if not all(isinstance(key, str) for key in flat):
        raise ConfigError("a state dict has strings as keys")
    trunk = {key: value for key, value in flat.items() if not head_of(key)}
    if key_map is not None and not native.intersection(trunk):
        trunk = key_map.load(trunk)
    trunk.update({key: value for key, value in flat.items() if head_of(key)})
    return trunk | {
        f"heads.{block}.{head}.{key}": value
        for block, ids in heads.items()
        for head, entries in ids.items()
        for key, value in entries.items()
    }
