"""What a split of a table has to balance, by the tasks of its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from classy_vision.data.split import Strata, Stratum
from classy_vision.train.tasks import Classification, Regression, Task

MAX_BINS = 10
"""Of the numbers of a regression, by their rank."""


def strata_of(
    columns: Mapping[str, Sequence[Any]], targets: Mapping[str, type[Task]], fraction: float
) -> Strata:
    """What a split of a table has to balance: its classes, its labels, and the range of its numbers.

    Args:
        columns: cells by column; None where a label is missing.
        targets: kinds of tasks by column.
        fraction: part of the rows that is held out.
    """
    rows: list[set[Stratum]] = [set() for _ in next(iter(columns.values()))]
    for name, kind in targets.items():
        bins = _bins(columns[name], fraction) if kind is Regression else {}
        for row, cell in enumerate(columns[name]):
            found: Sequence[str | int] = [] if cell is None else kind.labels(cell)
            found = [bins[row]] if row in bins else found
            rows[row] |= {Stratum(name, value, kind is Classification) for value in found}
            if not found:
                rows[row].add(Stratum(name, None))
    return rows


def _bins(cells: Sequence[Any], fraction: float) -> dict[int, int]:
    """The bin of each row that has a number; each is large enough that a row of it is held out."""
    numbers = {row: number for row, cell in enumerate(cells) if (number := _number(cell)) is not None}
    count = max(1, min(MAX_BINS, int(len(numbers) * fraction)))
    ranked = sorted(numbers, key=numbers.__getitem__)
    return {row: place * count // len(ranked) for place, row in enumerate(ranked)}


def _number(cell: Any) -> float | None:
    try:
        return None if cell is None else float(cell)
    except (TypeError, ValueError):
        return None  # an error once it is encoded
