"""A comparison as a table for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from classy_vision.study.row import COLUMNS, Row, value
from classy_vision.text import size

if TYPE_CHECKING:
    from rich.table import Table

FRONT, FAILED = "\N{BLACK STAR}", "\N{BALLOT X}"
NOTHING = "\N{EM DASH}"


DISPENSABLE = ("input", "activations", "throughput", "memory", "latency", "macs", "params")
"""What a narrow terminal leaves out, first to last, so that names, which people copy, stay whole."""
GAP = 3
"""Columns of a terminal between two columns: a space on each side of a divider."""


@dataclass(frozen=True)
class Grid:
    """The cells of a table, and how wide they are.

    Attributes:
        headings: by the name of the column.
        lines: cells by the name of the column, a line per model.
        styles: of the lines.
        left_out: headings of columns for which there is no room.
    """

    headings: Mapping[str, str]
    lines: Sequence[Mapping[str, str]]
    styles: Sequence[str | None]
    left_out: Sequence[str] = ()

    @property
    def width(self) -> int:
        """Columns of a terminal that show all of it."""
        return sum(
            GAP + max(map(len, (h, *(line[n] for line in self.lines)))) for n, h in self.headings.items()
        )

    def fitted(self, width: int, keep: Collection[str]) -> Grid:
        """Without columns that are dispensable, as far as ``width`` demands it.

        Args:
            width: of the terminal.
            keep: columns that are not left out: what rows are sorted and marked by.
        """
        grid = self
        for name in (n for n in DISPENSABLE if n in self.headings and n not in keep):
            if grid.width > width:
                headings = {n: h for n, h in grid.headings.items() if n != name}
                grid = replace(grid, headings=headings, left_out=[*grid.left_out, self.headings[name]])
        return grid

    def table(self) -> Table:
        """As rich prints it."""
        from rich import box
        from rich.table import Table

        shown = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 1))
        for name, heading in self.headings.items():
            left = name in ("mark", "model", "input")
            shown.add_column(heading, justify="left" if left else "right", no_wrap=True)
        for line, style in zip(self.lines, self.styles):
            shown.add_row(*(line[name] for name in self.headings), style=style)
        return shown


def grid(rows: Sequence[Row], front: Sequence[Row]) -> Grid:
    """One row per model, those on the Pareto front marked; columns without a number are left out."""
    names = [name for name in COLUMNS if any(value(row, name) is not None for row in rows)]
    heads = list(dict.fromkeys(head for row in rows for head in row.accuracies))[1:]
    headings = {
        **{"mark": "", "model": "model", "input": "input"},
        **{name: COLUMNS[name].heading for name in names},
        **{f"accuracy/{head}": head for head in heads},
    }
    lines = [
        {
            "mark": FAILED if row.failure else FRONT if row in front else "",
            "model": row.name,
            "input": size(row.input_shape) or NOTHING,
            **{name: _shown(name, value(row, name)) for name in names},
            **{f"accuracy/{head}": _shown("accuracy", row.accuracies.get(head)) for head in heads},
        }
        for row in rows
    ]
    styles = ["red" if row.failure else "bold" if row in front else None for row in rows]
    return Grid(headings, lines, styles)


def _shown(name: str, number: float | None) -> str:
    return NOTHING if number is None else COLUMNS[name].show(number)


def captions(rows: Sequence[Row], batch: int, dtype: str) -> list[str]:
    """What the numbers are of."""
    measured = any(row.latency is not None for row in rows)
    lines = [
        f"MACs and activations are for one input, memory{' and latency' if measured else ''} for a batch of "
        f"{batch} in {dtype}."
    ]
    first = dict.fromkeys(head for row in rows for head in list(row.accuracies)[:1])
    names = [_SOURCES.get(head, f"of {head} on held-out data") for head in first]
    return [*lines, f"Accuracy is that {' or '.join(names)}."] if names else lines


_SOURCES = {"imagenet_1k": "which the weights' publisher states for ImageNet", "accuracy": "of the table"}
