"""A comparison as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from classy_vision.study.row import COLUMNS, Row, list_other_heads, value
from classy_vision.text import Grid, size

FRONT, FAILED = "\N{BLACK STAR}", "\N{BALLOT X}"
NOTHING = "\N{EM DASH}"


DISPENSABLE = ("input", "activations", "throughput", "memory", "latency", "macs", "params")
"""The columns that a narrow terminal leaves out, first to last; names, which people copy, stay whole."""


def make_grid(rows: Sequence[Row], front: Sequence[Row]) -> Grid:
    """Makes a table of one row per model, those on the Pareto front marked, of the columns with numbers."""
    names = [name for name in COLUMNS if any(value(row, name) is not None for row in rows)]
    heads = list_other_heads(rows)
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
            **{name: _show(name, value(row, name)) for name in names},
            **{f"accuracy/{head}": _show("accuracy", row.accuracies.get(head)) for head in heads},
        }
        for row in rows
    ]
    styles = {i: "red" if row.failure else "bold" for i, row in enumerate(rows) if row.failure or row in front}
    return Grid(headings, lines, ("mark", "model", "input"), styles)


def _show(name: str, number: float | None) -> str:
    return NOTHING if number is None else COLUMNS[name].show(number)


def write_captions(rows: Sequence[Row], batch: int, dtype: str) -> list[str]:
    """Writes what the numbers refer to."""
    measured = any(row.latency is not None for row in rows)
    lines = [
        f"MACs and activations are for one input, memory{' and latency' if measured else ''} for a batch of "
        f"{batch} in {dtype}."
    ]
    first = dict.fromkeys(head for row in rows for head in list(row.accuracies)[:1])
    names = [_SOURCES.get(head, f"of {head} on held-out data") for head in first]
    return [*lines, f"Accuracy is that {' or '.join(names)}."] if names else lines


_SOURCES = {"imagenet_1k": "which the weights' publisher states for ImageNet", "accuracy": "of the table"}
