"""The picture of a probe: accuracy against the multiply-adds up to each block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from classy_vision.study.figure import INK, choose_colours, place_labels

if TYPE_CHECKING:
    from classy_vision.embed.readings import Probe, Reading


def draw_probe(found: Probe, columns: Sequence[str]) -> Figure:
    """Draws a plot for each column of labels: a point for each block and pooling, and the Pareto front."""
    figure = Figure(figsize=(8, 4.6 * len(columns)), layout="constrained")
    plots = figure.subplots(len(columns), squeeze=False)[:, 0]
    for plot, column in zip(plots, columns):
        _draw(plot, found, column)
    return figure


def _draw(plot: Axes, found: Probe, column: str) -> None:
    readings = [one for one in found.readings if one.column == column]
    front, cheapest = found.front(column), found.cheapest(column)
    for pooling, colour in choose_colours([one.pooling for one in readings]).items():
        of = [one for one in readings if one.pooling == pooling]
        xs, kind = [one.macs / 1e6 for one in of], "linear" if of[0].attentive is None else "attentive probe"
        marker, label = ("o", f"{kind}, {pooling}") if kind == "linear" else ("^", kind)
        plot.scatter(xs, [100 * one.accuracy for one in of], 30, colour, marker=marker, label=label, zorder=3)
        if kind == "linear":
            ys = [100 * (one.knn or 0.0) for one in of]
            plot.plot(xs, ys, color=colour, alpha=0.35, label=f"k-NN, {pooling}", zorder=2)
    plot.plot(*zip(*map(_place, front)), color=INK, linewidth=1, linestyle="--", zorder=2, label="Pareto front")
    plot.scatter(*_place(cheapest), s=110, facecolors="none", edgecolors=INK, zorder=4)
    plot.set_xlabel("million multiply-adds up to the block (less is better)")
    plot.set_ylabel(f"{column}: accuracy in %")
    if min(one.macs for one in readings) > 0:
        plot.set_xscale("log")
    plot.margins(0.1)
    plot.grid(alpha=0.25)
    plot.legend(fontsize=8, frameon=False)
    rest = [one for one in readings if one not in front]
    place_labels(
        plot, [_place(one) for one in (*front, *rest)], [one.block for one in front], [*map(_place, front)]
    )


def _place(one: Reading) -> tuple[float, float]:
    return one.macs / 1e6, 100 * one.accuracy
