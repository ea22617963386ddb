"""Weights in and out of a trunk, in our layout and the original's, whole or not at all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.trunk.undo import all_or_nothing
from classy_vision.weights.classy_vision import rename, unpack
from classy_vision.weights.fitting import Fitting
from classy_vision.weights.state import check_fit, head_of


def to_names_of(trunk: Any, state: Mapping[str, Any], strict: bool = True) -> dict[str, Any]:
    """A state of any of the original's layouts, or of ours, by the names of ``trunk``."""
    native = {key for key in trunk.state_dict() if not head_of(key)}
    return rename(unpack(state), trunk.key_map(), native, strict)


def fit_state(trunk: Any, state: Mapping[str, Any], strict: bool = True) -> dict[str, Any]:
    """The same, made to fit."""
    fitted: dict[str, Any] = trunk.fit(to_names_of(trunk, state, strict), Fitting())
    return fitted


def to_classy(trunk: Any, deep_copy: bool) -> dict[str, Any]:
    """See ``Trunk.get_classy_state``."""
    key_map = trunk.key_map()
    own: dict[str, Tensor] = {}
    heads: dict[str, dict[str, dict[str, Tensor]]] = {
        block: {head.unique_id: {} for head in entries} for block, entries in trunk.get_heads().items()
    }
    for key, value in sorted(trunk.state_dict().items(), key=lambda entry: head_of(entry[0]) or ""):
        if head_of(key) and not (key_map and key_map.to_theirs(key)):
            _, block, head, rest = key.split(".", 3)
            heads[block][head][rest] = value
        else:
            own[key] = value
    version = {} if trunk.classy_version is None else {"version": trunk.classy_version}
    classy = {"model": {"trunk": key_map.save(own) if key_map else own, "heads": heads}, **version}
    return copy.deepcopy(classy) if deep_copy else classy


def load_classy(trunk: Any, state: Mapping[str, Any], strict: bool) -> None:
    """See ``Trunk.set_classy_state``."""
    native = fit_state(trunk, state, strict)
    given = {head_of(key) for key in native}
    own = {k: v for k, v in trunk.state_dict().items() if head_of(k) and head_of(k) not in given}
    trunk.load_state_dict({**own, **native}, strict)


def load_heads(trunk: Any, state: Mapping[str, Any], strict: bool) -> None:
    """See ``Trunk.load_head_states``."""
    heads = {key: value for key, value in fit_state(trunk, state).items() if head_of(key)}
    if not heads:
        raise ConfigError("the state holds no heads")
    own = {key: value for key, value in trunk.state_dict().items() if not head_of(key)}
    load_classy(trunk, {**own, **heads}, strict)


def load_trunk(trunk: Any, state: Mapping[str, Any], strict: bool) -> None:
    """See ``Trunk.load_trunk_state``."""
    own = {key: value for key, value in fit_state(trunk, state, strict).items() if not head_of(key)}
    heads = {key: value for key, value in trunk.state_dict().items() if head_of(key)}
    trunk.load_state_dict({**own, **heads}, strict)


def load_whole(
    trunk: Any, state: Mapping[str, Any], strict: bool, assign: bool, load: Callable[..., Any]
) -> Any:
    """Loads ``state`` by torch's ``load``, or raises and changes nothing; see ``Trunk.load_state_dict``."""
    native = fit_state(trunk, state, strict)
    check_fit(trunk.state_dict(), native, strict, assign, type(trunk).__name__)
    with all_or_nothing(trunk, values=not assign):
        return load(native, strict, assign)


def rename_within(trunk: Any, state: dict[str, Any], prefix: str) -> None:
    """Renames the trunk's part of the state of a module around it, in place."""
    mine = {key: value for key, value in state.items() if key.startswith(prefix)} if prefix else {}
    if mine:
        native = fit_state(trunk, {key[len(prefix) :]: value for key, value in mine.items()}, strict=False)
        for key in mine:
            del state[key]
        state.update({prefix + key: value for key, value in native.items()})
