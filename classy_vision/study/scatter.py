"""Models as points on two axes, with the Pareto front between them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes as Plot
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from classy_vision.config import ConfigError
from classy_vision.study.figure import INK, choose_colours, place_labels
from classy_vision.study.pareto import Axes, front
from classy_vision.study.row import COLUMNS, Row
from classy_vision.weights.catalogue import is_published

WIDE = 8.0
"""From this ratio of largest to smallest on, an axis is logarithmic."""
CROWDED = 500.0
"""From this ratio on, ticks are at powers of ten alone."""
LABELS = 40
"""As many points as this all have a label; of more, only those on the front."""


def draw_scatter(rows: Sequence[Row], axes: Axes) -> Figure:
    """Draws the rows that have both numbers, with a colour for each group.

    Raises:
        ConfigError: no row has both.
    """
    best = front(rows, axes)
    known = [row for row in rows if not row.failure and axes.point(row) is not None]
    if not known:
        raise ConfigError(
            f"no model has both {COLUMNS[axes.x].label} and {COLUMNS[axes.y].label}: nothing to plot"
        )
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    plot = figure.subplots()
    for group, colour in (tints := choose_colours([row.group for row in known])).items():
        xs, ys = zip(*[p for row in known if row.group == group and (p := axes.point(row))])
        plot.scatter(xs, ys, s=30, color=colour, label=group, zorder=3)
    for name, way in ((axes.x, "x"), (axes.y, "y")):
        _dress(plot, name, way, [p[way == "y"] for row in known if (p := axes.point(row))])
    _draw_front(plot, best, axes)
    if len(tints) > 1:
        plot.legend(fontsize=8, frameon=False, loc="lower right" if not axes.x_high else "lower left")
    _label(plot, best, known, axes)
    return figure


def _dress(plot: Plot, name: str, way: str, numbers: Sequence[float]) -> None:
    """Label, scale and ticks of an axis."""
    column = COLUMNS[name]
    better = "more is better" if column.high else "less is better"
    axis = getattr(plot, f"{way}axis")
    getattr(plot, f"set_{way}label")(f"{column.label} ({better})" if way == "x" else column.label)
    if min(numbers) > 0 and max(numbers) > WIDE * min(numbers):
        getattr(plot, f"set_{way}scale")("log")
        steps = (1, 2, 5) if max(numbers) < CROWDED * min(numbers) else (1,)
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda number, _: _tick(number, name)))
    plot.margins(0.12)
    plot.grid(alpha=0.25, zorder=0)


def _tick(number: float, name: str) -> str:
    """As in the table, without trailing zeros."""
    return (
        re.sub(r"\.0+(?=\D|$)|(\.\d*[1-9])0+(?=\D|$)", r"\1", COLUMNS[name].show(number)) if number >= 0 else ""
    )


def _draw_front(plot: Plot, best: Sequence[Row], axes: Axes) -> None:
    points = [p for row in best if (p := axes.point(row))]
    xs, ys = zip(*points)
    plot.plot(xs, ys, color=INK, linewidth=1, linestyle="--", zorder=2)
    plot.scatter(xs, ys, s=90, facecolors="none", edgecolors=INK, linewidths=1, zorder=4, label="Pareto front")
    plot.set_title(f"Pareto front: {axes}", fontsize=9, color=INK)


def _label(plot: Plot, best: Sequence[Row], known: Sequence[Row], axes: Axes) -> None:
    """Labels, the front's first."""
    rest = [row for row in known if row not in best]
    named = [*best, *rest] if len(known) <= LABELS else best
    points = [p for row in (*best, *rest) if (p := axes.point(row))]
    texts = _short([row.name for row in (*best, *rest)])[: len(named)]
    place_labels(plot, points, texts, [p for row in best if (p := axes.point(row))])


def _short(names: Sequence[str]) -> list[str]:
    """Names of published weights without their source, and without their tag where it tells nothing."""
    tags = [name.partition("/")[2] if is_published(name) else "" for name in names]
    times = Counter(tag.partition(".")[0] if tag else name for tag, name in zip(tags, names))
    networks = [tag.partition(".")[0] for tag in tags]
    return [
        name if not tag else network if times[network] == 1 else tag
        for name, tag, network in zip(names, tags, networks)
    ]
