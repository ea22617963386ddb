"""Empirical distribution functions of error: design spaces as their populations."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from classy_vision.config import ConfigError
from classy_vision.study.figure import colours
from classy_vision.study.row import Row


def edf(errors: Sequence[float], error: float) -> float:
    """The share of models whose error is below ``error``: equation 1 of Radosavovic et al.,
    "Designing Network Design Spaces", 2020.

    Args:
        errors: of the models, from 0 to 1.
        error: from 0 to 1.

    Raises:
        ConfigError: there are no models.
    """
    if not errors:
        raise ConfigError("the distribution of no errors is not defined")
    return sum(one < error for one in errors) / len(errors)


def errors_by_group(rows: Sequence[Row]) -> dict[str, list[float]]:
    """The errors of models whose accuracy is known, in ascending order."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if row.accuracy is not None:
            groups.setdefault(row.group, []).append(1 - row.accuracy)
    return {group: sorted(errors) for group, errors in groups.items()}


def draw_edf(rows: Sequence[Row]) -> Figure:
    """A curve for each group; the legend has its number of models and [lowest | mean] error in percent.

    Raises:
        ConfigError: no accuracy is known.
    """
    groups = errors_by_group(rows)
    if not groups:
        raise ConfigError("no model has an accuracy: there is no distribution of errors to plot")
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    plot = figure.subplots()
    low, high = (pick(pick(errors) for errors in groups.values()) for pick in (min, max))
    edge = 0.05 * (high - low) or 0.01
    for group, colour in colours(list(groups)).items():
        errors = groups[group]
        n, mean = len(errors), sum(errors) / len(errors)
        label = f"{group}  n = {n}  [{100 * errors[0]:.1f} | {100 * mean:.1f}]"
        xs, ys = [low - edge, *errors, high + edge], [0, *(i / n for i in range(1, n + 1)), 1]
        plot.step(xs, ys, where="post", color=colour, label=label, linewidth=1.8)
    plot.set_xlim(low - edge, high + edge)
    plot.set_ylim(0, 1.02)
    plot.xaxis.set_major_formatter(PercentFormatter(1))
    plot.set_xlabel("error")
    plot.set_ylabel("share of models with less error")
    plot.grid(alpha=0.25)
    plot.legend(loc="lower right", fontsize=8, title="[lowest | mean error, %]", title_fontsize=8)
    return figure
