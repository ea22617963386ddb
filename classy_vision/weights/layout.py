"""A published layout: the rows that lead from its names to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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

    def key_map(self, name: str, config: Any, blocks: Sequence[str], heads: Sequence[Layout] = ()) -> KeyMap:
        """The map for a model of ``config`` with ``blocks``, and for what it has of ``heads``."""
        rows = self.rows(config) if callable(self.rows) else self.rows
        legacy = self.legacy(config) if callable(self.legacy) else self.legacy
        parts = [*heads, replace(self, rows=rows, legacy=legacy)]
        return KeyMap(
            name,
            [row for part in parts for row in part.list_rows()],
            [renaming for part in parts for renaming in part.list_legacy()],
            [prefix for part in parts for prefix in part.dropped],
            blocks,
        )

    def list_rows(self) -> Sequence[Row]:
        """The rows, where they are the same for all configs."""
        assert not callable(self.rows)
        return self.rows

    def list_legacy(self) -> Sequence[Renaming]:
        """The older names, where they are the same for all configs."""
        assert not callable(self.legacy)
        return self.legacy

    def move_to(self, place: str) -> Layout:
        """This layout with ``place`` before our prefixes."""
        rows: list[Row] = [(row[0], f"{place}.{row[1]}", *row[2:]) for row in self.list_rows()]
        return replace(self, rows=rows)


Layouts = Mapping[str, Layout]


def nest_rows(theirs: str, ours: str, parts: Mapping[str, str]) -> list[Row]:
    """Rows for the parts of a block: {part of theirs: part of ours}."""
    return [(f"{theirs}.{a}", f"{ours}.{b}") for a, b in parts.items()]


def transform_row(rows: Sequence[Row], ours: str, transform: Transform) -> list[Row]:
    """``rows``, with a transform for that of ``ours``."""
    return [(row[0], row[1], transform) if row[1] == ours else row for row in rows]
