"""The costs of a model, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from classy_vision.config import ConfigError
from classy_vision.cost.ledger import Ledger, Operation
from classy_vision.layers.meta import outline
from classy_vision.models.classy_model import ClassyModel
from classy_vision.models.features import FeatureInfo


@dataclass(frozen=True)
class StepCost:
    """One step of the trunk, or a head.

    Attributes:
        name: the stem, a block, "trunk_output", or the head's id.
        reads: the step that a head reads; None for a step of the trunk.
        aliases: its further names, such as ``block3`` for the end of stage 3.
        shape: of its output, without the batch; () where a head gives no tensor.
        stride: input pixels per output pixel along the height; None without a height.
        params: parameters.
        macs: multiply-adds for one sample; see ``classy_vision.cost.operators``.
    """

    name: str
    reads: str | None
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    stride: int | None
    params: int
    macs: int


@dataclass(frozen=True)
class Costs:
    """What a model costs.

    Attributes:
        input_shape: the input without the batch.
        steps: in the order in which they run, heads behind the step they read.
        unread: parameters that no step reads.
    """

    input_shape: tuple[int, ...]
    steps: tuple[StepCost, ...]
    unread: int = 0

    @property
    def params(self) -> int:
        """All parameters of the model."""
        return sum(step.params for step in self.steps) + self.unread

    @property
    def macs(self) -> int:
        """Multiply-adds of all steps and heads."""
        return sum(step.macs for step in self.steps)

    @property
    def deepest(self) -> str | None:
        """The last step that a head reads, where the forward pass stops; None without heads."""
        return next((step.reads for step in reversed(self.steps) if step.reads), None)

    @property
    def skipped(self) -> tuple[StepCost, ...]:
        """The steps behind the deepest head, which the forward pass leaves out."""
        heads = [i for i, step in enumerate(self.steps) if step.reads]
        return self.steps[heads[-1] + 1 :] if heads else ()


def count(model: ClassyModel, input_shape: Sequence[int] | None = None) -> Costs:
    """Parameters and multiply-adds of every step and head, for one sample.

    The model's outline is run on the meta device: no data, no copy of the weights, and steps
    that the forward pass would leave out count as well. A model on the meta device will do.

    Args:
        model: its heads count where they sit.
        input_shape: another input than ``model.input_shape``, without the batch.

    Raises:
        TypeError: the model is no ``ClassyModel``.
        ConfigError: the model does not take such an input.
    """
    if not isinstance(model, ClassyModel):
        raise TypeError(f"count takes a ClassyModel, not {type(model).__name__}: see ClassyModel.from_model")
    shape = tuple(input_shape or model.input_shape)
    run = _Run(model)
    tensors = dict((*run.named_parameters(), *run.named_buffers()))
    outlines = {name: outline(tensor) for name, tensor in tensors.items() if not tensor.is_meta}
    ledger = Ledger(outlines.get(name, parameter) for name, parameter in run.named_parameters())
    try:
        with torch.inference_mode(False), torch.no_grad(), ledger:
            x = _samples(model, shape)
            steps = functional_call(run, outlines, (x, ledger))
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{type(model).__name__} cannot take an input of {shape}: {error}") from error
    return Costs(shape, tuple(steps), ledger.unread)


def _samples(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    # A batch norm in training refuses one value per channel.
    number = 2 if any(module.training for module in model.modules()) else 1
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.empty((number, *shape), device="meta", dtype=dtype)


class _Run(nn.Module):
    """Lets ``functional_call`` reach the walk and the heads of a model."""

    def __init__(self, model: ClassyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, ledger: Ledger) -> list[StepCost]:
        self.model.check_input(x)
        features = dict(self.model.walk(x))
        aliases = _aliases(self.model.block_names, features)
        heads = self.model.get_heads()
        steps: list[StepCost] = []
        start = 0
        for name, feature in features.items():
            end = max(start, ledger.end_of(feature))
            steps.append(_cost(name, x, feature, ledger.operations[start:end], aliases=aliases[name]))
            start = end
            for head in (head for block in (name, *aliases[name]) for head in heads.get(block, ())):
                before = len(ledger.operations)
                output = head(feature)
                steps.append(_cost(head.unique_id, x, output, ledger.operations[before:], reads=name))
        return steps


def _cost(
    name: str,
    x: Tensor,
    output: Any,
    work: Sequence[Operation],
    aliases: Iterable[str] = (),
    reads: str | None = None,
) -> StepCost:
    shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
    stride = FeatureInfo.of(name, output, tuple(x.shape[1:])).stride if len(shape) > 2 else None
    macs = sum(operation.macs for operation in work) // len(x)
    params = sum(operation.params for operation in work)
    return StepCost(name, reads, tuple(aliases), shape, stride, params, macs)


def _aliases(block_names: Iterable[str], steps: Iterable[str]) -> dict[str, list[str]]:
    """The further names of each step: in ``block_names`` they stand behind it."""
    aliases: dict[str, list[str]] = {step: [] for step in steps}
    step = ""
    for name in block_names:
        if name in aliases:
            step = name
        else:
            aliases[step].append(name)
    return aliases
