"""The original ClassyVision's containers: the classy state, its checkpoint, its raw state dict.

classy state:    {"model": {"trunk": {...}, "heads": {block: {id: {...}}}}, "version": 0.2}
checkpoint:      {"classy_state_dict": {"base_model": classy state}, "input_args": {"config": ...}}
raw state dict:  trunk keys with "._module" after every block that has a head, and
                 "_heads.<block>.<id>.<key>"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.weights.key_map import KeyMap
from classy_vision.weights.state import head_of

State = dict[str, Tensor]
MAX_KEYS = 10_000
"""Of the state dict in a file; the key names of every layout are tried on each."""
MAX_KEY = 1000
"""Characters of a key."""


def checkpoint_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The model's config in a checkpoint of the original.

    Raises:
        ConfigError: there is none.
    """
    try:
        return dict(checkpoint["input_args"]["config"]["model"])
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            "the checkpoint does not say which model it is of (input_args.config.model); build "
            "the model with build_model(config) and use model.set_classy_state(checkpoint)"
        ) from None


_CONTAINERS = (
    *("state_dict_ema", "model_ema"),  # averaged weights, where there are both, are those to use
    *("classy_state_dict", "base_model", "model", "state_dict", "model_state", "model_state_dict"),
)
_PREFIXES = ("module.", "_orig_mod.", "base_encoder.")  # of data-parallel, compiled and MoCo's models


def unpack(state: Mapping[str, Any]) -> State:
    """A flat state dict out of whatever container it is in; heads are ``heads.<block>.<id>.<key>``.

    Raises:
        ConfigError: this is not a state.
    """
    if isinstance(state, Mapping) and {"optimizer", "shards"} <= state.keys():
        raise ConfigError(
            "this checkpoint is in parts, which only classy train --resume reads: take model.safetensors of "
            "the run once it is finished, or best.safetensors"
        )
    for key in _CONTAINERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ConfigError(f"a state dict maps names to tensors, but this is a {type(state).__name__}")
    if isinstance(state.get("trunk"), Mapping):
        heads = state.get("heads") or {}
        if not isinstance(heads, Mapping):
            raise ConfigError(f"the heads of a state are a mapping by block, not a {type(heads).__name__}")
        if odd := [key for key in state["trunk"] if not isinstance(key, str)]:
            raise ConfigError(f"a state dict maps names to tensors, but {odd[0]!r} of its trunk is no name")
        return {**state["trunk"], **dict(_list_leaves("heads", heads))}
    for prefix in _PREFIXES * 2:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    if any(key.startswith("_heads.") for key in state):
        return _remove_wrappers(state)
    return dict(state)


def flatten(state: Mapping[str, Any]) -> State:
    """What ``unpack`` gives, of a file that may be anyone's.

    Raises:
        ConfigError: this is not a state, or it has more keys than any model.
    """
    flat = unpack(state)
    if len(flat) > MAX_KEYS:
        raise ConfigError(f"{len(flat):,} keys in a state dict: no model has more than {MAX_KEYS:,}")
    if (longest := max(map(len, flat), default=0)) > MAX_KEY:
        raise ConfigError(f"a key of {longest:,} characters in a state dict: {MAX_KEY:,} are the most")
    return flat


def _list_leaves(prefix: str, tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The ends of a tree by their path, which a file may have made deep, or part of itself."""
    rest: list[tuple[str, Any, int]] = [(prefix, tree, 0)]
    seen: set[int] = set()
    while rest:
        path, value, depth = rest.pop()
        if not isinstance(value, Mapping):
            yield path, value
        elif depth > _DEPTH or id(value) in seen:
            raise ConfigError(f"this is not a state dict: {path!r} is nested too deeply, or stands in it twice")
        else:
            seen.add(id(value))
            rest += [(f"{path}.{key}", entry, depth + 1) for key, entry in reversed(list(value.items()))]


_DEPTH = 6
"""Levels of a state; heads are in blocks, and keys in heads."""


def _remove_wrappers(state: Mapping[str, Any]) -> State:
    """A raw state dict without the names of the modules that wrapped blocks with heads."""
    heads = {key.removeprefix("_"): value for key, value in state.items() if key.startswith("_heads.")}
    blocks = dict.fromkeys(key.split(".")[1] for key in heads)
    trunk: State = {}
    for key, value in state.items():
        if not key.startswith("_heads."):
            path = f".{key}"
            for block in blocks:
                path = path.replace(f".{block}._module.", f".{block}.", 1)
            trunk[path[1:]] = value
    return {**trunk, **heads}


def rename(state: Mapping[str, Any], key_map: KeyMap | None, native: set[str], strict: bool) -> State:
    """A flat state dict by our names, from one in the original's layout or ours.

    Args:
        state: what ``unpack`` gives; keys of heads are ours already.
        key_map: the trunk's names in the original's layout; None if they are ours.
        native: the trunk's names in our layout, to tell the layouts apart.
        strict: whether keys that the map does not know are an error, or left as they are.

    Raises:
        ConfigError: a key is of neither layout.
    """
    trunk = {key: value for key, value in state.items() if not head_of(key)}
    heads = {key: value for key, value in state.items() if head_of(key)}
    # A head without weights has left nothing but the infix at its block.
    plain = {key: key.replace("._module.", ".") for key in trunk}
    if key_map is None:
        return {plain[key] if plain[key] in native else key: value for key, value in trunk.items()} | heads
    if native.intersection(trunk):
        return trunk | heads
    names = {key: key if key_map.to_native(key) in native else plain[key] for key in trunk}
    unexpected = {} if strict else {k: v for k, v in trunk.items() if not key_map.knows(names[k])}
    theirs = {names[key]: value for key, value in trunk.items() if key not in unexpected}
    return key_map.load(theirs) | unexpected | heads
