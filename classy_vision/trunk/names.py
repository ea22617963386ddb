"""The names of steps: the stem, the blocks, the end, and what else they are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

END = "trunk_output"
"""The name of the end of every trunk."""
_AND = "+"


def join_blocks(blocks: str | Iterable[str]) -> str:
    """The place of a head in state dicts: its block, or several in their order: "block2+block3"."""
    return blocks if isinstance(blocks, str) else _AND.join(blocks)


def split_place(place: str) -> tuple[str, ...]:
    """The blocks that the heads at ``place`` read; the inverse of ``join_blocks``."""
    return tuple(place.split(_AND))


class Names(NamedTuple):
    """The names of a trunk whose steps run one after the other.

    Attributes:
        blocks: the keys of its ``blocks``, from which the others follow.
        given: the aliases that it was told.
        steps: in the order in which they run.
        aliases: further names, by step: those of stages (``block3`` for the end of stage 3) and those given.
    """

    blocks: tuple[str, ...]
    given: Mapping[str, str]
    steps: tuple[str, ...]
    aliases: Mapping[str, str]


def name_steps(blocks: Iterable[str], given: Mapping[str, str], name_stages: bool) -> Names:
    """The names of a trunk with these blocks.

    Args:
        blocks: the keys of its ``blocks``.
        given: further names for steps; they win over those of stages.
        name_stages: whether ``block3`` is the last of ``block3-0``, ``block3-1``, ….
    """
    blocks = tuple(blocks)
    steps = ("stem", *blocks, END)
    stages = {name.rpartition("-")[0]: name for name in steps if "-" in name} if name_stages else {}
    aliases = {alias: step for alias, step in {**stages, **given}.items() if alias not in steps}
    return Names(blocks, given, steps, aliases)


def group_names(steps: Iterable[str], aliases: Mapping[str, str]) -> dict[str, list[str]]:
    """The aliases of each step, by step."""
    groups: dict[str, list[str]] = {step: [] for step in steps}
    for alias, step in aliases.items():
        if step in groups:
            groups[step].append(alias)
    return groups
