"""The Pareto front: models that no other model beats on both axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from classy_vision.study.row import COLUMNS, SIZES, Row, check_column, value


@dataclass(frozen=True)
class Axes:
    """Two columns to compare models by: ``x`` is the cost, and ``y`` the benefit."""

    x: str
    y: str

    @property
    def x_high(self) -> bool:
        """Whether more is better on ``x``."""
        return COLUMNS[self.x].high

    @property
    def y_high(self) -> bool:
        """Whether more is better on ``y``: parameters and MACs stand there for what a model can learn."""
        return COLUMNS[self.y].high or self.y in SIZES

    def __str__(self) -> str:
        ways = [f"{'most' if high else 'least'} {COLUMNS[name].label}" for name, high in self._sides()]
        return f"{ways[1]} for the {ways[0]}"

    def _sides(self) -> tuple[tuple[str, bool], tuple[str, bool]]:
        return (self.x, self.x_high), (self.y, self.y_high)

    def point(self, row: Row) -> tuple[float, float] | None:
        """The position of a row; None if a number is missing."""
        x, y = value(row, self.x), value(row, self.y)
        return None if x is None or y is None else (x, y)


def choose_axes(rows: Sequence[Row], x: str | None = None, y: str | None = None) -> Axes:
    """Chooses the axes that are not given by the numbers that ``rows`` have.

    Accuracy against latency. Without accuracy, MACs stand for what a model can learn; without latency,
    MACs are the cost of accuracy, and activations, which predict latency better than MACs do
    (Radosavovic et al., "Designing Network Design Spaces", 2020, figure 12), that of MACs.

    Raises:
        UnknownNameError: no such column.
    """
    measured, trained = ({value(row, name) for row in rows} - {None} for name in ("latency", "accuracy"))
    y = check_column(y, "--y") if y else "accuracy" if trained else "macs"
    cost = "latency" if measured else "macs" if y != "macs" else "activations"
    return Axes(check_column(x, "--x") if x else cost, y)


def front(rows: Sequence[Row], axes: Axes) -> list[Row]:
    """The rows for which no other is at least as good on both axes and better on one, along ``x``.

    Rows with a failure are left out.
    """
    signs = (1 if axes.x_high else -1, 1 if axes.y_high else -1)
    points = [
        (signs[0] * p[0], signs[1] * p[1], row) for row in rows if not row.failure and (p := axes.point(row))
    ]
    points.sort(key=lambda p: p[:2], reverse=True)
    kept: list[tuple[float, float, Row]] = []
    for point in points:
        if not kept or point[1] > kept[-1][1] or point[:2] == kept[-1][:2]:
            kept.append(point)
    return [row for *_, row in kept]
