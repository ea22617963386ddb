"""What a model costs, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from classy_vision.config import unknown
from classy_vision.cost.memory import Memory, estimate
from classy_vision.trunk.trunk import Trunk


@dataclass(frozen=True)
class StepCost:
    """One step of the trunk, or a head.

    Attributes:
        name: the stem, a block, "trunk_output", or the head's id.
        reads: the step that a head reads, of several the last; None for a step of the trunk.
        aliases: its further names, such as ``block3`` for the end of stage 3.
        shape: of its output, without the batch; () where a head does not give a tensor.
        stride: input pixels per output pixel along the height; None without a height.
        params: parameters.
        macs: multiply-adds for one sample; see ``classy_vision.cost.operators``.
        activations: numbers that its convolutions, linear layers and attention give for one sample;
            see there.
        receptive_field: input pixels along the height that reach one position of the output through
            the windows of convolutions and poolings; None for all, as after attention and global
            pooling. See ``classy_vision.cost.receptive_field``.
        also_reads: the earlier steps that a head of several blocks reads.
        gated: whether a gate that sees all of the input, such as that of squeeze-and-excitation, acts
            on the output as well.
    """

    name: str
    reads: str | None
    aliases: tuple[str, ...]
    shape: tuple[int, ...]
    stride: int | None
    params: int
    macs: int
    activations: int = 0
    receptive_field: int | None = None
    gated: bool = False
    also_reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Costs:
    """What a model costs.

    Attributes:
        input_shape: the input without the batch.
        steps: in the order in which they run, heads after the step they read.
        unread: parameters that no step reads.
        uncounted: operators that the model runs and of which it is not known what they do; they count
            nothing, so that MACs and activations are too low where there are any.
        model: what was counted, for ``memory``.
    """

    input_shape: tuple[int, ...]
    steps: tuple[StepCost, ...]
    unread: int = 0
    uncounted: tuple[str, ...] = ()
    model: Trunk | None = field(default=None, repr=False, compare=False)

    @property
    def params(self) -> int:
        """All parameters of the model."""
        return sum(step.params for step in self.steps) + self.unread

    @property
    def macs(self) -> int:
        """Multiply-adds of all steps and heads."""
        return sum(step.macs for step in self.steps)

    @property
    def activations(self) -> int:
        """Activations of all steps and heads."""
        return sum(step.activations for step in self.steps)

    @property
    def heads(self) -> tuple[StepCost, ...]:
        """The rows of heads."""
        return tuple(step for step in self.steps if step.reads)

    @property
    def deepest(self) -> str | None:
        """The last step that a head reads, where the forward pass stops; None without heads."""
        return next((step.reads for step in reversed(self.steps) if step.reads), None)

    @property
    def skipped(self) -> tuple[StepCost, ...]:
        """The steps after the deepest head, which the forward pass leaves out."""
        heads = [i for i, step in enumerate(self.steps) if step.reads]
        return self.steps[heads[-1] + 1 :] if heads else ()

    @property
    def running(self) -> Costs:
        """What the forward pass costs: without the steps after the deepest head."""
        return replace(self, steps=self.steps[: len(self.steps) - len(self.skipped)], unread=0)

    def without(self, heads: Iterable[str]) -> Costs:
        """The costs of the model without the heads of these ids.

        The trunk stays as it is: ask for ``running`` to see what the forward pass saves.

        Raises:
            UnknownNameError: no such head.
        """
        gone, known = set(heads), [step.name for step in self.heads]
        for name in sorted(gone - {*known}):
            raise unknown("head", name, known)
        return replace(self, steps=tuple(s for s in self.steps if not (s.reads and s.name in gone)))

    def memory(
        self, batch: int = 1, dtype: str = "float32", training: bool = False, device: str = "cpu"
    ) -> Memory:
        """What memory the forward pass takes, or with ``training`` the forward and the backward pass.

        The model's outline is run on the meta device, and what is alive at any moment counted; see
        ``classy_vision.cost.memory`` for what is counted and what is not.

        Args:
            batch: samples per batch.
            dtype: of weights, input and activations: one of float32, float64, float16, bfloat16.
            training: whether gradients are computed.
            device: whose kernels: "cpu" or "cuda".

        Raises:
            ConfigError: an option that is none of these, or an input that the model does not take in
                training, such as a batch of 1 where a norm has one value per channel.
        """
        if self.model is None:
            raise TypeError("these costs do not hold their model: call memory() on what count() returns")
        return estimate(self.model, self.input_shape, batch, dtype, training, device)
