"""The costs of a model, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.cost.costs import Costs, StepCost
from classy_vision.cost.ledger import Ledger
from classy_vision.cost.receptive_field import Field
from classy_vision.trunk.features import FeatureInfo
from classy_vision.trunk.names import END, split_place
from classy_vision.trunk.trunk import Trunk
from classy_vision.trunk.twin import outline_of


def count(model: Trunk, input_shape: Sequence[int] | None = None) -> Costs:
    """Parameters, multiply-adds and activations of every step and head, for one sample.

    The model's outline is run on the meta device: no data, no copy of the weights, and steps
    that the forward pass would leave out count as well. A model on the meta device will do.

    Args:
        model: its heads count where they sit.
        input_shape: another input than ``model.input_shape``, without the batch.

    Raises:
        TypeError: the model is not a ``ClassyModel``.
        ConfigError: the model does not take such an input.
    """
    if not isinstance(model, Trunk):
        raise TypeError(f"count takes a ClassyModel, not {type(model).__name__}: see ClassyModel.from_model")
    shape = tuple(input_shape or model.input_shape)
    try:
        with torch.inference_mode(False), torch.no_grad():
            outline = outline_of(model)
            ledger = Ledger(outline.parameters())
            with ledger:
                x = _samples(outline, shape)
                ledger.fields.set(x, Field())
                steps = _steps(outline, x, ledger)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{type(model).__name__} cannot take an input of {shape}: {error}") from error
    uncounted = dict.fromkeys(operation.name for operation in ledger.operations if not operation.is_known)
    return Costs(shape, tuple(steps), ledger.unread, tuple(uncounted), model)


def _samples(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    # A batch norm in training refuses one value per channel.
    number = 2 if any(module.training for module in model.modules()) else 1
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.empty((number, *shape), device="meta", dtype=dtype)


def _steps(model: Trunk, x: Tensor, ledger: Ledger) -> list[StepCost]:
    """Runs the steps and heads of an outline, and gives what each cost."""
    model.check_input(x)
    aliases, read = model.block_aliases(), _list_read(model)
    steps: list[StepCost] = []
    start = 0
    for name, feature, outputs in list(model.steps(x, END)):  # heads run when they are asked for, below
        end = max(start, ledger.end_of(feature))
        steps.append(_cost(name, x, feature, ledger, slice(start, end), aliases=aliases[name]))
        start, before = end, len(ledger.operations)
        for head, output in outputs:
            row = _cost(head, x, output, ledger, slice(before, None), reads=name)
            steps.append(replace(row, also_reads=tuple(step for step in read[head] if step != name)))
            before = len(ledger.operations)
    return steps


def _list_read(model: Trunk) -> dict[str, list[str]]:
    """The steps that each head reads, by head."""
    names = {name: step for step, others in model.block_aliases().items() for name in (step, *others)}
    return {
        head.unique_id: [names[block] for block in split_place(place)]
        for place, heads in model.get_heads().items()
        for head in heads
    }


def _cost(
    name: str,
    x: Tensor,
    output: Any,
    ledger: Ledger,
    part: slice,
    aliases: Iterable[str] = (),
    reads: str | None = None,
) -> StepCost:
    work = ledger.operations[part]
    shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
    stride = FeatureInfo.of(name, output, tuple(x.shape[1:])).stride if len(shape) > 2 else None
    # A vector is of the whole input, and an input without a height has no field.
    field = (ledger.fields.of(output) if len(shape) > 1 and x.dim() > 3 else None) or Field(None)
    return StepCost(
        name,
        reads,
        tuple(aliases),
        shape,
        stride,
        params=sum(operation.params for operation in work),
        macs=sum(operation.macs for operation in work) // len(x),
        activations=sum(operation.activations for operation in work) // len(x),
        receptive_field=field.rows,
        gated=field.gated,
    )
