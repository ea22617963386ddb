"""What is known of a model's costs: counted, estimated, measured; and as JSON values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from classy_vision.config import ConfigError
from classy_vision.cost.costs import Costs, StepCost
from classy_vision.cost.measure import Measured
from classy_vision.cost.memory import Memory


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
    batch: int = 1
    dtype: str = "float32"
    inference: Memory | None = None
    training: Memory | None = None
    measured: Measured | None = None


def report(
    costs: Costs,
    batch: int = 1,
    dtype: str = "float32",
    device: str = "cpu",
    measured: Measured | None = None,
) -> Report:
    """The costs, and the memory that batches take.

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


def plain(given: Report) -> dict[str, Any]:
    """The costs as JSON values: totals, and ``steps`` with one row each."""
    costs = given.costs
    return {
        "input_shape": list(costs.input_shape),
        "params": costs.params,
        "unread": costs.unread,
        "macs": costs.macs,
        "activations": costs.activations,
        "uncounted": list(costs.uncounted),
        "deepest": costs.deepest,
        "running": _total(costs.running),
        "heads": [
            {"name": head.name, "reads": head.reads, "without": _total(costs.without([head.name]).running)}
            for head in costs.heads
        ],
        "memory": {
            "batch": given.batch,
            "dtype": given.dtype,
            "inference": _memory(given.inference),
            "training": _memory(given.training),
        },
        **({"measured": _measured(given.measured)} if given.measured else {}),
        "steps": [_row(given, index, step) for index, step in enumerate(costs.steps)],
    }


def _total(costs: Costs) -> dict[str, int]:
    return {"params": costs.params, "macs": costs.macs, "activations": costs.activations}


def _memory(memory: Memory | None) -> dict[str, int] | None:
    if memory is None:
        return None
    return {key: value for key, value in asdict(memory).items() if key != "steps"}


def _measured(measured: Measured) -> dict[str, Any]:
    return {
        "batch": measured.batch,
        **{f"ms{suffix}": value for suffix, value in _spread(measured.whole)},
        "throughput": measured.throughput,
        "memory": measured.memory,
    }


def _spread(timing: Any) -> list[tuple[str, float | None]]:
    parts = (("", "median"), ("_low", "low"), ("_high", "high"))
    return [(suffix, getattr(timing, name, None)) for suffix, name in parts]


def _row(given: Report, index: int, step: StepCost) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": step.name,
        "kind": "head" if step.reads else "step",
        "reads": step.reads,
        "also_reads": list(step.also_reads),
        "aliases": list(step.aliases),
        "shape": list(step.shape),
        "stride": step.stride,
        "params": step.params,
        "macs": step.macs,
        "runs": index < len(given.costs.running.steps),
        "receptive_field": step.receptive_field,
        "gated": step.gated,
        "activations": step.activations,
        "inference_bytes": step_bytes(given.inference, index),
        "training_bytes": step_bytes(given.training, index),
    }
    if given.measured:
        timing = given.measured.steps.get((step.name, step.reads))
        row.update((f"ms{suffix}", value) for suffix, value in _spread(timing))
    return row


def step_bytes(memory: Memory | None, index: int) -> int | None:
    """What a step takes; None where it does not run."""
    return memory.steps[index] if memory and index < len(memory.steps) else None
