"""Heads on the blocks of a trunk: where they stand, and how they run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.heads.classy_head import ClassyHead, check_heads, needs_in_plane
from classy_vision.trunk.features import OverwrittenError, Trace
from classy_vision.trunk.names import END
from classy_vision.trunk.sequence import told_channels
from classy_vision.trunk.training import decide, look, trunk_parameters
from classy_vision.trunk.undo import all_or_nothing

Outputs = Iterable[tuple[str, Any]]
"""(head id, output); a head runs when its entry is asked for."""
WithHeads = Iterator[tuple[str, Tensor, Outputs]]
"""(step, feature, outputs of the heads there), in the order in which steps run."""


class Plan(NamedTuple):
    """How to run some heads.

    Attributes:
        key: the names that it was made from.
        until: the last step that a head reads; the end where there are no heads.
        readers: the blocks of heads, by step: a step may have several names.
    """

    key: tuple[str | None, ...]
    until: str
    readers: Mapping[str, tuple[str, ...]]


NO_HEADS = Plan((), END, {})


def plan_heads(trunk: Any, heads: nn.ModuleDict) -> Plan:
    """How to run ``heads``: the trunk's plan, or another where names have changed since it was made."""
    if not heads:
        return NO_HEADS
    key = (*heads, None, *trunk._route().key(trunk))
    plan: Plan = trunk._plan
    if plan.key == key:
        return plan
    readers: dict[str, tuple[str, ...]] = {}
    for block in heads:
        step = trunk._step(block)
        readers[step] = (*readers.get(step, ()), block)
    return Plan(key, trunk._deepest(readers), readers)


def run_heads(features: Iterable[tuple[str, Any]], heads: nn.ModuleDict, plan: Plan) -> WithHeads:
    """Features with what the heads make of them."""

    def attach(entry: tuple[str, Any]) -> tuple[str, Any, Outputs]:
        name, feature = entry
        blocks = plan.readers.get(name)
        return name, feature, () if blocks is None else _outputs(heads, blocks, feature)

    return map(attach, features)  # a generator would put one more frame above every layer


def _outputs(heads: nn.ModuleDict, blocks: Iterable[str], feature: Any) -> Outputs:
    for block in blocks:
        for head in heads[block].values():  # type: ignore[operator]  # modules of a ModuleDict
            yield head.unique_id, head(feature)


def join_outputs(heads: nn.ModuleDict, found: Mapping[str, Any]) -> Any:
    """The output of the only head, or all by head id in the order of ``heads``."""
    if len(found) == 1:
        return next(iter(found.values()))
    return {name: found[name] for entries in heads.values() for name in entries}  # type: ignore[attr-defined]  # modules of a ModuleDict


def attach_heads(trunk: Any, heads: Mapping[str, Iterable[ClassyHead]]) -> None:
    """Replaces all heads, or raises and changes nothing; see ``Trunk.set_heads``."""
    wanted = _check_places(trunk, heads)
    steps = {block: trunk._step(block) for block in wanted}
    route = trunk._route()
    route.prepare(trunk, steps.values())
    traced = _look(trunk, wanted, steps)
    route.check_layouts(steps.values())
    known = told_channels(trunk)
    if traced:
        known = {step: traced.info(step).channels for step in steps.values()}
    channels = {block: known[step] for block, step in steps.items()} if known else {}
    check_heads(wanted, channels)
    with all_or_nothing(trunk, [head for entries in wanted.values() for head in entries]):
        with torch.inference_mode(False):
            for block, entries in wanted.items():
                _fit_heads(trunk, entries, channels.get(block))
        by_block = {b: nn.ModuleDict({h.unique_id: h for h in entries}) for b, entries in wanted.items()}
        trunk.heads = nn.ModuleDict(by_block)
        trunk._plan = plan_heads(trunk, trunk.heads)
        decide(trunk, traced)


def _check_places(trunk: Any, heads: Mapping[str, Iterable[ClassyHead]]) -> dict[str, list[ClassyHead]]:
    """Heads by the block under which they are kept, without blocks that have none."""
    if not isinstance(heads, Mapping):
        raise ConfigError(f"set_heads takes {{block: [head, ...]}}, not {type(heads).__name__}")
    wanted: dict[str, list[ClassyHead]] = {}
    for block, entries in heads.items():
        step = trunk._step(block)
        if not isinstance(entries, Iterable) or isinstance(entries, nn.Module):
            raise ConfigError(f"block {block!r}: a list of heads is needed, not {type(entries).__name__}")
        if entries := list(entries):
            wanted[step if "." in block else block] = entries
    return wanted


def _look(trunk: Any, heads: Mapping[str, list[ClassyHead]], steps: Mapping[str, str]) -> Trace | None:
    """What ``look`` gives; None also where the trunk cannot be run without data and no head needs that."""
    try:
        return look(trunk, steps.values())
    except OverwrittenError:
        raise
    except ConfigError:
        if any(needs_in_plane(head) for entries in heads.values() for head in entries):
            raise
        return None


def look_again(trunk: Any) -> Trace | None:
    """What the heads that are attached depend on, where the family has not told and it can be found."""
    try:
        return look(trunk, trunk.head_steps())
    except OverwrittenError:
        raise
    except ConfigError:
        return None


def _fit_heads(trunk: nn.Module, heads: Iterable[ClassyHead], channels: int | None) -> None:
    """Builds heads for the channels of their block, and gives them the trunk's device, type and mode."""
    like = next((p for p in trunk_parameters(trunk).values() if p.is_floating_point()), None)
    for head in heads:
        if head.in_plane is None and channels is not None:
            head.build(channels)
        if like is not None:
            head.to(device=like.device, dtype=like.dtype)
        head.train(trunk.training)
