"""Costs as text: a table for people, JSON and CSV for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from classy_vision.cost.costs import Costs, StepCost
from classy_vision.cost.measure import Timing
from classy_vision.cost.memory import Memory
from classy_vision.cost.report import Report, step_bytes
from classy_vision.text import human as human
from classy_vision.text import milliseconds, percent
from classy_vision.text import size as size

if TYPE_CHECKING:
    from rich.table import Table

WIDE = 100
"""Columns of a terminal that show all there is."""


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        heading: at its top.
        cell: of the step at an index.
        total: at its foot.
        narrow: whether it stands in terminals of fewer than 100 columns, too.
    """

    heading: str
    cell: Callable[[int, StepCost], str]
    total: str = ""
    narrow: bool = True


def table(given: Report, title: str, width: int = 100) -> Table:
    """One row for every step and head, heads after what they read, and the totals.

    Rows that the forward pass leaves out are dim.

    Args:
        given: what is shown.
        title: stands above.
        width: of the terminal; below 100 some columns are left out.
    """
    from rich import box
    from rich.table import Table

    grid = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        show_footer=True,
        padding=(0, 1, 0, 0),
        collapse_padding=False,
    )
    columns = [column for column in _columns(given) if column.narrow or width >= WIDE]
    grid.add_column("step", "total", overflow="fold")
    for column in columns:
        grid.add_column(column.heading, column.total, justify="right", no_wrap=True)
    runs = len(given.costs.running.steps)
    for index, step in enumerate(given.costs.steps):
        also = f" (and {', '.join(step.also_reads)})" if step.also_reads else ""
        name = f"  └ {step.name}{also}" if step.reads else " = ".join((step.name, *step.aliases))
        cells = (column.cell(index, step) for column in columns)
        grid.add_row(name, *cells, style="dim" if index >= runs else None)
    return grid


def _columns(given: Report) -> list[Column]:
    costs, measured = given.costs, given.measured
    columns = [
        Column("output", lambda _, step: size(step.shape)),
        Column("stride", lambda _, step: str(step.stride or ""), narrow=not measured),
        Column("field", lambda _, step: _field(step), narrow=not measured),
        Column("params", lambda _, step: human(step.params), human(costs.params)),
        Column("MACs", lambda _, step: human(step.macs), human(costs.macs)),
        Column("share", lambda _, step: _share(step.macs, costs.macs), "100%", narrow=False),
        Column("acts", lambda _, step: human(step.activations), human(costs.activations)),
        _memory("infer", given.inference),
        _memory("train", given.training),
    ]
    if measured:
        steps = measured.steps
        columns[5] = Column(
            "ms",
            lambda _, step: _ms(steps.get((step.name, step.reads))),
            _ms(measured.whole),
        )
        columns[5:7] = columns[6], columns[5]
    return columns


def _memory(heading: str, memory: Memory | None) -> Column:
    def cell(index: int, step: StepCost) -> str:
        used = step_bytes(memory, index)
        return "" if used is None else f"{human(max(used, 0))}B"

    return Column(heading, cell, f"{human(memory.peak)}B" if memory else "-", narrow=False)


def _field(step: StepCost) -> str:
    return "all" if step.receptive_field is None else f"{step.receptive_field}{'+' if step.gated else ''}"


def _share(macs: int, total: int) -> str:
    return percent(macs / total, 1) if total else ""


def _ms(timing: Timing | None) -> str:
    return "" if timing is None else milliseconds(timing.median)


def saving(costs: Costs) -> str:
    """What the forward pass leaves out because no head reads that far; "" where it is nothing."""
    if not costs.skipped:
        return ""
    params = sum(step.params for step in costs.skipped)
    macs = sum(step.macs for step in costs.skipped)
    return (
        f"No head reads after {costs.deepest}: the forward pass stops there and saves "
        f"{human(macs)} MACs ({_percent(macs, costs.macs)}); {human(params)} parameters rest."
    )


def notes(given: Report) -> list[str]:
    """What the table does not say by itself, line by line."""
    costs = given.costs
    return [line for line in (saving(costs), *_without(costs), _unknown(costs), _timed(given)) if line]


def _without(costs: Costs) -> Iterator[str]:
    """What the forward pass costs without each head, where there are several."""
    if len(costs.heads) < 2:
        return
    for head in costs.heads:
        rest = costs.without([head.name]).running
        less = costs.running.macs - rest.macs
        yield (
            f"Without {head.name} the forward pass ends at {rest.deepest} and takes {human(rest.macs)} MACs, "
            f"{human(less)} less ({_percent(less, costs.running.macs)})."
        )


def _percent(part: int, total: int) -> str:
    return percent(part / total, 0) if total else "0%"


def _unknown(costs: Costs) -> str:
    if not costs.uncounted:
        return ""
    return f"Not counted, since it is not known what they do: {', '.join(costs.uncounted)}."


def _timed(given: Report) -> str:
    measured = given.measured
    if measured is None:
        return ""
    whole = measured.whole
    return (
        f"A batch of {measured.batch} took {_ms(whole)} ms, half of the rounds between {whole.low:.4g} and "
        f"{whole.high:.4g}: {measured.throughput:.4g} inputs a second, in {human(measured.memory)}B."
    )
