"""A published layout: the rows that lead from its names to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from classy_vision.weights.key_map import KeyMap, Renaming, Row, Transform

OURS = ("native", "classy_vision")
"""Layouts that hold any heads, not only one at the end of the trunk."""
HEAD = "head."
"""What rows call the head at the end of the trunk, on our side."""
CLASSIFIER = "head.classifier"
"""Its last linear layer, whatever the head calls it."""


@dataclass(frozen=True)
class Layout:
    """How one library names the weights of one family.

    Attributes:
        rows: (their prefix, our prefix[, transform]), or a function that gives them for a config.
            Ours begin with ``stem``, ``blocks``, ``tail`` or ``head``.
        legacy: (older prefix, prefix), for files written before a renaming; or a function as well.
        dropped: prefixes that hold nothing the model has a place for.
    """

    rows: Sequence[Row] | Callable[[Any], Sequence[Row]]
    legacy: Sequence[Renaming] | Callable[[Any], Sequence[Renaming]] = ()
    dropped: Sequence[str] = ()

    def key_map(self, name: str, config: Any, blocks: Sequence[str]) -> KeyMap:
        """The map for a model of ``config`` with ``blocks``."""
        rows = self.rows(config) if callable(self.rows) else self.rows
        legacy = self.legacy(config) if callable(self.legacy) else self.legacy
        return KeyMap(name, rows, legacy, self.dropped, blocks)


Layouts = Mapping[str, Layout]


def nest_rows(theirs: str, ours: str, parts: Mapping[str, str]) -> list[Row]:
    """Rows for the parts of a block: {part of theirs: part of ours}."""
    return [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in parts.items()]


def transform_row(rows: Sequence[Row], ours: str, transform: Transform) -> list[Row]:
    """``rows``, with a transform for that of ``ours``."""
    return [(row[0], row[1], transform) if row[1] == ours else row for row in rows]
