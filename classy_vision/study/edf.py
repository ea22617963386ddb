"""Empirical distribution functions of error: design spaces compared as populations of models."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from classy_vision.config import ConfigError
from classy_vision.study.figure import choose_colours
from classy_vision.study.row import Row


def draw_edf(rows: Sequence[Row]) -> Figure:
    """Draws the share of models whose error is at most a value, one curve for each group: equation 1 of
    Radosavovic et al., "Designing Network Design Spaces", 2020.

    The legend gives the number of models in the group and [lowest | mean] error in percent.

    Raises:
        ConfigError: no model has an accuracy.
    """
    known = [row for row in rows if row.accuracy is not None]
    if not known:
        raise ConfigError("no model has an accuracy, so there is no distribution of errors to plot")
    figure = Figure(figsize=(6, 4.4), layout="constrained")
    axes = figure.subplots()
    for group, colour in choose_colours([row.group for row in known]).items():
        errors = [1 - row.accuracy for row in known if row.group == group and row.accuracy is not None]
        lowest, mean = 100 * min(errors), 100 * sum(errors) / len(errors)
        label = f"{group}  n = {len(errors)}  [{lowest:.1f} | {mean:.1f}]"
        axes.ecdf(errors, color=colour, label=label, linewidth=1.8)
    axes.set(xlabel="error", ylabel="share of models with at most this error", ylim=(0, 1.02))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8, title="[lowest | mean error, %]", title_fontsize=8)
    return figure
