"""A model in a comparison: its numbers, and which numbers there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from classy_vision.config import unknown
from classy_vision.text import human, milliseconds, percent


@dataclass(frozen=True)
class Row:
    """What is known of a model; None where it is not.

    Attributes:
        name: of the model.
        group: the folder of its file, or its family.
        input_shape: without the batch.
        params: parameters.
        macs: multiply-adds for one input.
        activations: numbers in the outputs of convolutions, linear layers and attention.
        memory: bytes at the peak of the forward pass: measured, or estimated.
        latency: milliseconds for one batch, the median.
        throughput: inputs per second.
        accuracies: by head, from 0 to 1, of the held-out data.
        failure: what went wrong.
    """

    name: str
    group: str = ""
    input_shape: tuple[int, ...] = ()
    params: float | None = None
    macs: float | None = None
    activations: float | None = None
    memory: float | None = None
    latency: float | None = None
    throughput: float | None = None
    accuracies: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None

    @property
    def accuracy(self) -> float | None:
        """Of the first head that has one."""
        return next(iter(self.accuracies.values()), None)


@dataclass(frozen=True)
class Column:
    """A number of a row.

    Attributes:
        heading: in the table.
        label: of an axis.
        show: the number for people.
        high: whether more is better.
    """

    heading: str
    label: str
    show: Callable[[float], str]
    high: bool = False


COLUMNS: dict[str, Column] = {
    "params": Column("params", "parameters", human),
    "macs": Column("MACs", "MACs", human),
    "activations": Column("acts", "activations", human),
    "memory": Column("memory", "memory", lambda number: f"{human(number)}B"),
    "latency": Column("latency", "latency", lambda number: f"{milliseconds(number)} ms"),
    "throughput": Column("per s", "inputs per second", lambda number: f"{number:,.4g}", high=True),
    "accuracy": Column("accuracy", "accuracy", percent, high=True),
}
SIZES = frozenset(("params", "macs"))
"""Less is better where they are the cost, more where they stand for what a model can learn."""


def check_column(name: str, where: str) -> str:
    """Returns ``name``, or raises an UnknownNameError if no column is called so."""
    if name not in COLUMNS:
        raise unknown("column", name, COLUMNS, where)
    return name


def value(row: Row, name: str) -> float | None:
    """The number in a column."""
    number: float | None = getattr(row, name)
    return number


def sort_rows(rows: Iterable[Row], name: str) -> list[Row]:
    """Sorts rows best first, or worst first if ``name`` begins with a minus; rows without a number last."""
    key = check_column(name.removeprefix("-"), "--sort")
    rows = list(rows)
    known = [row for row in rows if value(row, key) is not None]
    rest = [row for row in rows if value(row, key) is None]
    reverse = COLUMNS[key].high != name.startswith("-")
    return sorted(known, key=lambda row: value(row, key) or 0, reverse=reverse) + rest


def list_other_heads(rows: Sequence[Row]) -> list[str]:
    """Lists the heads with an accuracy that is not the first of its row, which has a column of its own."""
    return list(dict.fromkeys(head for row in rows for head in list(row.accuracies)[1:]))


def list_values(rows: Sequence[Row], front: Sequence[Row]) -> list[dict[str, Any]]:
    """Lists rows as JSON values, each with the same keys."""
    heads = list_other_heads(rows)
    return [
        {
            "name": row.name,
            "group": row.group,
            "input_shape": list(row.input_shape),
            **{name: value(row, name) for name in COLUMNS},
            **{f"accuracy/{head}": row.accuracies.get(head) for head in heads},
            "front": row in front,
            "failure": row.failure,
        }
        for row in rows
    ]
