"""A comparison as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from classy_vision.cost.table import size
from classy_vision.study.row import COLUMNS, Row, value

if TYPE_CHECKING:
    from rich.table import Table

FRONT, FAILED = "\N{BLACK STAR}", "\N{BALLOT X}"
NOTHING = "\N{EM DASH}"


def table(rows: Sequence[Row], front: Sequence[Row]) -> Table:
    """One row per model, those on the Pareto front marked; columns without a number are left out."""
    from rich import box
    from rich.table import Table

    names = [name for name in COLUMNS if any(value(row, name) is not None for row in rows)]
    heads = list(dict.fromkeys(head for row in rows for head in row.accuracies))
    grid = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 1))
    grid.add_column("")
    grid.add_column("model", overflow="fold")
    grid.add_column("input", no_wrap=True)
    for name in names:
        grid.add_column(COLUMNS[name].heading, justify="right", no_wrap=True)
    for head in heads[1:]:
        grid.add_column(f"{head}", justify="right", no_wrap=True)
    for row in rows:
        mark = FAILED if row.failure else FRONT if row in front else ""
        cells = [_shown(name, value(row, name)) for name in names]
        rest = [_shown("accuracy", row.accuracies.get(head)) for head in heads[1:]]
        style = "red" if row.failure else "bold" if row in front else None
        grid.add_row(mark, row.name, size(row.input_shape) or NOTHING, *cells, *rest, style=style)
    return grid


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
