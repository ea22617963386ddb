"""Costs as text: a table for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from classy_vision.config import ConfigError
from classy_vision.cost.count import Costs, StepCost

if TYPE_CHECKING:
    from rich.table import Table

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K"))


def human(number: int) -> str:
    """Three digits and a unit: 25557032 is "25.6M"."""
    # 999_500 would round to 1000K.
    unit, letter = next(((u, s) for u, s in _UNITS if number >= 0.9995 * u), (1, ""))
    value = number / unit
    return f"{value:.{0 if value >= 99.95 or not letter else 1 if value >= 9.995 else 2}f}{letter}"


def size(shape: Sequence[int]) -> str:
    """(256, 56, 56) is "256×56×56"."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, shape))


def dump(data: Any, rows: Sequence[Mapping[str, Any]], as_json: bool, as_csv: bool) -> str | None:
    """``data`` as JSON, or ``rows`` as CSV with lists joined by "x"; None where neither is wanted.

    Raises:
        ConfigError: both are.
    """
    if as_json and as_csv:
        raise ConfigError("--json and --csv are two forms of the same output: give one of them")
    if as_json:
        return json.dumps(data, indent=2)
    if not as_csv:
        return None
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: "x".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in row.items()}
        writer.writerow(cells)
    return text.getvalue().rstrip("\n")


def plain(costs: Costs) -> dict[str, Any]:
    """The costs as JSON values: totals, and ``steps`` with one row each."""
    skipped = {id(step) for step in costs.skipped}
    return {
        "input_shape": list(costs.input_shape),
        "params": costs.params,
        "unread": costs.unread,
        "macs": costs.macs,
        "deepest": costs.deepest,
        "steps": [_row(step, runs=id(step) not in skipped) for step in costs.steps],
    }


def _row(step: StepCost, runs: bool) -> dict[str, Any]:
    return {
        "name": step.name,
        "kind": "head" if step.reads else "step",
        "reads": step.reads,
        "aliases": list(step.aliases),
        "shape": list(step.shape),
        "stride": step.stride,
        "params": step.params,
        "macs": step.macs,
        "runs": runs,
    }


def table(costs: Costs, title: str) -> Table:
    """One row for every step and head, heads behind what they read, and the totals.

    Rows that the forward pass leaves out are dim.
    """
    from rich import box
    from rich.table import Table

    grid = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, show_footer=True)
    grid.add_column("step", "total", overflow="fold")
    for heading, footer in (
        ("output", ""),
        ("stride", ""),
        ("params", human(costs.params)),
        ("MACs", human(costs.macs)),
        ("share", "100%"),
    ):
        grid.add_column(heading, footer, justify="right", no_wrap=True)
    skipped = {id(step) for step in costs.skipped}
    for step in costs.steps:
        grid.add_row(*_cells(step, costs.macs), style="dim" if id(step) in skipped else None)
    return grid


def _cells(step: StepCost, macs: int) -> tuple[str, ...]:
    name = f"  └ {step.name}" if step.reads else " = ".join((step.name, *step.aliases))
    share = f"{100 * step.macs / macs:.1f}%" if macs else ""
    stride = str(step.stride or "")
    return name, size(step.shape), stride, human(step.params), human(step.macs), share


def saving(costs: Costs) -> str:
    """What the forward pass leaves out because no head reads that far; "" where it is nothing."""
    if not costs.skipped:
        return ""
    params = sum(step.params for step in costs.skipped)
    macs = sum(step.macs for step in costs.skipped)
    share = f"{100 * macs / costs.macs:.0f}%" if costs.macs else "0%"
    return (
        f"No head reads behind {costs.deepest}: the forward pass stops there and saves "
        f"{human(macs)} MACs ({share}); {human(params)} parameters rest."
    )
