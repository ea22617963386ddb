"""Heads on the blocks of a trunk: where they stand, and how they run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.heads.classy_head import ClassyHead, Source, TokenLayout, check_heads, needs_in_plane
from classy_vision.trunk.features import FeatureInfo, OverwrittenError, Trace, find_patch
from classy_vision.trunk.names import END, join_blocks, split_place
from classy_vision.trunk.sequence import told_channels
from classy_vision.trunk.training import decide, look, trunk_parameters
from classy_vision.trunk.undo import all_or_nothing

Outputs = Iterable[tuple[str, Any]]
"""(head id, output); a head runs when its entry is asked for."""
WithHeads = Iterator[tuple[str, Tensor, Outputs]]
"""(step, feature, outputs of the heads there), in the order in which steps run."""


class Reader(NamedTuple):
    """The heads at one place.

    Attributes:
        place: the name of their block, or of several, joined.
        steps: what these blocks are, in the order in which the heads read them.
    """

    place: str
    steps: tuple[str, ...]


class Plan(NamedTuple):
    """How to run some heads.

    Attributes:
        key: the names that it was made from.
        until: the last step that a head reads; the end where there are no heads.
        readers: who reads a step, by step: it may have several names.
        kept: the steps whose features wait for further ones that the same head reads.
    """

    key: tuple[str | None, ...]
    until: str
    readers: Mapping[str, tuple[Reader, ...]]
    kept: frozenset[str]


NO_HEADS = Plan((), END, {}, frozenset())


def plan_heads(trunk: Any, heads: nn.ModuleDict) -> Plan:
    """How to run ``heads``: the trunk's plan, or another where names have changed since it was made."""
    if not heads:
        return NO_HEADS
    key = (*heads, None, *trunk._route().key(trunk))
    plan: Plan = trunk._plan
    if plan.key == key:
        return plan
    readers: dict[str, tuple[Reader, ...]] = {}
    for place in heads:
        reader = Reader(place, tuple(map(trunk._step, split_place(place))))
        for step in reader.steps:
            readers[step] = (*readers.get(step, ()), reader)
    kept = {step for step, found in readers.items() if any(len(reader.steps) > 1 for reader in found)}
    return Plan(key, trunk._deepest(readers), readers, frozenset(kept))


def run_heads(
    trunk: Any, x: Any, features: Iterable[tuple[str, Any]], heads: nn.ModuleDict, plan: Plan
) -> WithHeads:
    """Features with what the heads make of them. A head of several blocks runs after the last of them.

    Args:
        trunk: the heads are on.
        x: its input.
        features: (step, feature), in the order in which steps run.
        heads: by place.
        plan: of these heads.
    """
    kept: dict[str, Any] = {}

    def attach(entry: tuple[str, Any]) -> tuple[str, Any, Outputs]:
        name, feature = entry
        readers = plan.readers.get(name)
        if readers is None:
            return name, feature, ()
        if name in plan.kept:
            kept[name] = feature
        found = {**kept, name: feature}
        ready = [reader for reader in readers if all(step in found for step in reader.steps)]
        return name, feature, _outputs(trunk, x, heads, ready, found)

    return map(attach, features)  # a generator would put one more frame above every layer


def _outputs(
    trunk: Any, x: Any, heads: nn.ModuleDict, readers: Iterable[Reader], found: Mapping[str, Any]
) -> Outputs:
    for place, steps in readers:
        for head in heads[place].values():  # type: ignore[operator]  # modules of a ModuleDict
            yield head.unique_id, head(*(trunk.head_input(head, step, found[step], x) for step in steps))


def join_outputs(heads: nn.ModuleDict, found: Mapping[str, Any]) -> Any:
    """The output of the only head, or all by head id in the order of ``heads``."""
    if len(found) == 1:
        return next(iter(found.values()))
    return {name: found[name] for entries in heads.values() for name in entries}  # type: ignore[attr-defined]  # modules of a ModuleDict


def attach_heads(trunk: Any, heads: Mapping[Any, Iterable[ClassyHead]]) -> None:
    """Replaces all heads, or raises and changes nothing; see ``Trunk.set_heads``."""
    wanted = _check_places(trunk, heads)
    places = {place: tuple(map(trunk._step, split_place(place))) for place in wanted}
    steps = dict.fromkeys(step for read in places.values() for step in read)
    route = trunk._route()
    route.prepare(trunk, steps)
    traced = _look(trunk, wanted, steps)
    route.check_layouts(steps)
    sources = _describe(trunk, places, steps, traced, wanted)
    check_heads(wanted, sources)
    with all_or_nothing(trunk, [head for entries in wanted.values() for head in entries]):
        with torch.inference_mode(False):
            for place, entries in wanted.items():
                _fit_heads(trunk, entries, sources[place])
        by_place = {p: nn.ModuleDict({h.unique_id: h for h in entries}) for p, entries in wanted.items()}
        trunk.heads = nn.ModuleDict(by_place)
        trunk._plan = plan_heads(trunk, trunk.heads)
        decide(trunk, traced)


def _check_places(trunk: Any, heads: Mapping[Any, Iterable[ClassyHead]]) -> dict[str, list[ClassyHead]]:
    """Heads by the place under which they are kept, without places that have none."""
    if not isinstance(heads, Mapping):
        raise ConfigError(f"set_heads takes {{block: [head, ...]}}, not {type(heads).__name__}")
    wanted: dict[str, list[ClassyHead]] = {}
    for blocks, entries in heads.items():
        place = _find_place(trunk, split_place(blocks) if isinstance(blocks, str) else blocks)
        if not isinstance(entries, Iterable) or isinstance(entries, nn.Module):
            raise ConfigError(f"block {blocks!r}: a list of heads is needed, not {type(entries).__name__}")
        for head in (entries := list(entries)):
            if not isinstance(head, ClassyHead):
                raise ConfigError(f"block {blocks!r}: {type(head).__name__} is not a ClassyHead")
        if entries:
            wanted[place] = [*wanted.get(place, ()), *entries]
    return wanted


def _find_place(trunk: Any, blocks: Iterable[str]) -> str:
    """The place of heads that read ``blocks``, which exist and differ."""
    steps: dict[str, str] = {}
    for block in blocks:
        step = trunk._step(block)
        if step in steps:
            same = "" if steps[step] == block else f": {block!r} and {steps[step]!r} are the same block"
            raise ConfigError(f"a head reads each of its blocks once, not {block!r} twice{same}")
        steps[step] = block
    return join_blocks(step if "." in block else block for step, block in steps.items())


def _describe(
    trunk: Any,
    places: Mapping[str, tuple[str, ...]],
    steps: Iterable[str],
    traced: Trace | None,
    heads: Mapping[str, Iterable[ClassyHead]],
) -> dict[str, tuple[Source, ...]]:
    """What is known of the blocks that heads read, by place."""
    known = {step: traced.info(step).channels for step in steps} if traced else told_channels(trunk)
    need_strides = any(head.needs_strides for entries in heads.values() for head in entries)
    infos = trunk.feature_info(steps) if need_strides else {}

    def describe(block: str, step: str) -> Source:
        tokens = trunk.token_layout(step)
        if traced:
            tokens = (tokens or TokenLayout()) if traced.features[step].dim() == 3 else None
        info = infos.get(step)
        stride = info and _find_stride(info, tokens, trunk.input_shape)
        return Source(block, known.get(step), stride, tokens, info and info.shape)

    return {
        place: tuple(describe(block, step) for block, step in zip(split_place(place), read, strict=True))
        for place, read in places.items()
    }


def _find_stride(info: FeatureInfo, tokens: TokenLayout | None, input_shape: tuple[int, ...]) -> int | None:
    """Input pixels per position of a map, that of the patches where there are tokens."""
    if tokens is None or len(info.shape) != 2 or len(input_shape) < 3:
        return info.stride
    return tokens.patch or find_patch(info.shape[0] - tokens.prefix, input_shape[-2:])


def _look(trunk: Any, heads: Mapping[str, list[ClassyHead]], steps: Iterable[str]) -> Trace | None:
    """What ``look`` gives; None also where the trunk cannot be run without data and no head needs that."""
    try:
        return look(trunk, steps)
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


def _fit_heads(trunk: nn.Module, heads: Iterable[ClassyHead], sources: tuple[Source, ...]) -> None:
    """Tells heads what they read, and gives them the trunk's device, type and mode."""
    like = next((p for p in trunk_parameters(trunk).values() if p.is_floating_point()), None)
    for head in heads:
        head.connect(sources)
        if like is not None:
            head.to(device=like.device, dtype=like.dtype)
        head.train(trunk.training)
