"""What is known of a model's costs: as JSON values for programs, and as a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from classy_vision.config import ConfigError
from classy_vision.cost.costs import Costs, StepCost
from classy_vision.cost.measure import Measured, Timing
from classy_vision.cost.memory import Memory
from classy_vision.text import Grid, human, milliseconds, percent, size

WIDE = 100
"""Columns of a terminal that show the whole table."""


@dataclass(frozen=True)
class Report:
    """The costs of a model.

    Attributes:
        costs: what was counted.
        batch: samples that memory and time are of.
        dtype: of weights and input there.
        inference, training: memory; None where a batch cannot be run so.
        measured: time; None where it was not asked for.
    """

    costs: Costs
    batch: int
    dtype: str
    inference: Memory
    training: Memory | None
    measured: Measured | None

    def time(self, step: StepCost) -> Timing | None:
        """How long a step took; None where it was not measured."""
        return self.measured.steps.get((step.name, step.reads)) if self.measured else None


def report(costs: Costs, batch: int, dtype: str, device: str, measured: Measured | None = None) -> Report:
    """Adds the memory that batches take to the costs.

    Raises:
        ConfigError: the model does not take such a batch in inference.
    """
    kind = device.partition(":")[0]
    inference = costs.memory(batch, dtype, device=kind)
    try:
        training = costs.memory(batch, dtype, training=True, device=kind)
    except ConfigError:  # such as a norm over one value
        training = None
    return Report(costs, batch, dtype, inference, training, measured)


def _get_bytes(memory: Memory | None, index: int) -> int | None:
    """Returns what a step takes; None where it does not run."""
    return memory.steps[index] if memory and index < len(memory.steps) else None


# -- for programs


def list_values(given: Report) -> dict[str, Any]:
    """Returns the costs as JSON values: totals, and ``steps`` with one row each."""
    costs, measured = given.costs, given.measured
    found = {
        "input_shape": list(costs.input_shape),
        **{name: getattr(costs, name) for name in ("params", "unread", "macs", "activations")},
        "uncounted": list(costs.uncounted),
        "deepest": costs.deepest,
        "running": _sum(costs.running),
        "heads": [
            {"name": head.name, "reads": head.reads, "without": _sum(costs.without([head.name]).running)}
            for head in costs.heads
        ],
        "memory": {
            "batch": given.batch,
            "dtype": given.dtype,
            "inference": _drop_steps(given.inference),
            "training": _drop_steps(given.training),
        },
    }
    if measured:
        more = {"throughput": measured.throughput, "memory": measured.memory}
        found["measured"] = {"batch": measured.batch, **_list_spread(measured.whole), **more}
    return {**found, "steps": [_make_row(given, index, step) for index, step in enumerate(costs.steps)]}


def _sum(costs: Costs) -> dict[str, int]:
    return {"params": costs.params, "macs": costs.macs, "activations": costs.activations}


def _drop_steps(memory: Memory | None) -> dict[str, int] | None:
    return {key: value for key, value in asdict(memory).items() if key != "steps"} if memory else None


def _list_spread(timing: Timing | None) -> dict[str, float | None]:
    parts = {"ms": "median", "ms_low": "low", "ms_high": "high"}
    return {key: getattr(timing, name, None) for key, name in parts.items()}


_KEYS = (
    *("name", "kind", "reads", "also_reads", "aliases", "shape", "stride", "params", "macs", "runs"),
    *("receptive_field", "gated", "activations", "inference_bytes", "training_bytes"),
)


def _make_row(given: Report, index: int, step: StepCost) -> dict[str, Any]:
    values = {
        **asdict(step),
        "kind": "head" if step.reads else "step",
        "runs": index < len(given.costs.running.steps),
        "inference_bytes": _get_bytes(given.inference, index),
        "training_bytes": _get_bytes(given.training, index),
    }
    return {key: values[key] for key in _KEYS} | (_list_spread(given.time(step)) if given.measured else {})


# -- for people


def _name_row(step: StepCost) -> str:
    also = f" (and {', '.join(step.also_reads)})" if step.also_reads else ""
    return f"  └ {step.name}{also}" if step.reads else " = ".join((step.name, *step.aliases))


def make_grid(given: Report, title: str, width: int) -> Grid:
    """Makes a table of one row per step and head, heads after what they read, and the totals.

    Rows that the forward pass leaves out are dim.

    Args:
        given: what is shown.
        title: stands above.
        width: of the terminal; below 100 some columns are left out.
    """
    costs, measured = given.costs, given.measured
    names = ["step", "output", "stride", "field", "params", "MACs", "share", "acts", "infer", "train"]
    if measured:
        names[6:8] = "acts", "ms"
    if width < WIDE:
        hidden = {"share", "infer", "train", *(("stride", "field") if measured else ())}
        names = [name for name in names if name not in hidden]
    totals = {
        **{"step": "total", "params": human(costs.params), "MACs": human(costs.macs), "share": "100%"},
        **{"acts": human(costs.activations), "ms": _show_time(measured.whole if measured else None)},
        "infer": f"{human(given.inference.peak)}B",
        "train": f"{human(given.training.peak)}B" if given.training else "-",
    }
    steps = list(enumerate(costs.steps))
    dim = {index: "dim" for index, _ in steps[len(costs.running.steps) :]}
    lines = [_make_line(given, index, step) for index, step in steps]
    return Grid(dict(zip(names, names)), lines, ("step",), dim, title=title, totals=totals, folded="step")


def _make_line(given: Report, index: int, step: StepCost) -> dict[str, str]:
    field = "all" if step.receptive_field is None else f"{step.receptive_field}{'+' if step.gated else ''}"
    return {
        "step": _name_row(step),
        **{"output": size(step.shape), "stride": str(step.stride or ""), "field": field},
        **{"params": human(step.params), "MACs": human(step.macs), "acts": human(step.activations)},
        "share": percent(step.macs / given.costs.macs, 1) if given.costs.macs else "",
        "ms": _show_time(given.time(step)),
        **{"infer": _show_bytes(given.inference, index), "train": _show_bytes(given.training, index)},
    }


def _show_bytes(memory: Memory | None, index: int) -> str:
    used = _get_bytes(memory, index)
    return "" if used is None else f"{human(max(used, 0))}B"


def _show_time(timing: Timing | None) -> str:
    return "" if timing is None else milliseconds(timing.median)


def write_notes(given: Report) -> Iterator[str]:
    """What the table does not say by itself, line by line."""
    costs, measured = given.costs, given.measured
    if costs.skipped:
        params, macs = (sum(getattr(step, name) for step in costs.skipped) for name in ("params", "macs"))
        yield (
            f"No head reads after {costs.deepest}: the forward pass stops there and saves "
            f"{human(macs)} MACs ({_percent(macs, costs.macs)}); {human(params)} parameters are unused."
        )
    yield from _compare_heads(costs)
    if costs.uncounted:
        yield f"Not counted, because their costs are unknown: {', '.join(costs.uncounted)}."
    if measured:
        whole = measured.whole
        yield (
            f"A batch of {measured.batch} took {_show_time(whole)} ms, half of the rounds between "
            f"{whole.low:.4g} and {whole.high:.4g}: {measured.throughput:.4g} inputs a second, in "
            f"{human(measured.memory)}B."
        )


def _compare_heads(costs: Costs) -> Iterator[str]:
    """What the forward pass costs without each head, where there are several."""
    for head in costs.heads if len(costs.heads) > 1 else ():
        rest = costs.without([head.name]).running
        less = costs.running.macs - rest.macs
        yield (
            f"Without {head.name} the forward pass ends at {rest.deepest} and takes {human(rest.macs)} MACs, "
            f"{human(less)} less ({_percent(less, costs.running.macs)})."
        )


def _percent(part: int, total: int) -> str:
    return percent(part / total, 0) if total else "0%"
