"""How much memory a model takes, found without taking it.

The model's outline runs forward, and in training backward, on the meta device. Every tensor is counted
from the operator that makes it until nothing refers to it any more, so that what autograd keeps, what
heads wait for, and what is recomputed or shared are counted as they are.

Counted are weights and buffers, the input, activations, and in training the gradients. Not counted are
the state of an optimizer, what an allocator holds back, the process itself, and what kernels work
in, but for that of convolutions on the CPU, which was measured.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.cost.outlines import TRAINING, FusedAttention
from classy_vision.cost.receptive_field import tensors_in
from classy_vision.layers.eager import outlines_as
from classy_vision.trunk.meta import OnMeta
from classy_vision.trunk.trunk import Trunk
from classy_vision.trunk.twin import Module, twin_of

_aten = torch.ops.aten
DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16")
}
DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Memory:
    """Memory in bytes.

    Attributes:
        weights: parameters and buffers.
        gradients: of the parameters; 0 in inference.
        activations: the most that is alive besides those two: the input, features, and in training
            what is kept for the backward pass and the gradients of activations.
        peak: the most that is alive at a time.
        steps: for each step and head that runs, in the order of ``Costs.running``: in inference the
            most that is alive besides the weights while it runs; in training what it leaves alive for
            the backward pass.
    """

    weights: int
    gradients: int
    activations: int
    peak: int
    steps: tuple[int, ...]


def check_options(batch: int, dtype: str, device: str) -> None:
    """Raises a ConfigError that names an option that is not allowed, and what is."""
    if batch < 1:
        raise ConfigError(f"batch = {batch}: a batch has one sample or more")
    for kind, value, allowed in (("dtype", dtype, DTYPES), ("device", device.split(":")[0], DEVICES)):
        if value not in allowed:
            raise unknown(kind, value, allowed)


def estimate(model: Trunk, shape: Sequence[int], batch: int, dtype: str, training: bool, device: str) -> Memory:
    """The memory that a batch of ``shape`` takes; see ``Costs.memory``."""
    check_options(batch, dtype, device)
    meter = _Meter(device)
    try:
        with (
            outlines_as(device),
            FusedAttention(device),
            meter,
            in_mode(model, training, _outline_as(DTYPES[dtype], training)) as outline,
        ):
            weights = meter.weights = meter.live
            x = torch.empty((batch, *shape), device="meta", dtype=DTYPES[dtype])
            steps = _run(outline, x, meter, training)
            gradients = sum(p.grad.nbytes for p in outline.parameters() if p.grad is not None)
    except (RuntimeError, ValueError) as error:
        way = "training" if training else "inference"
        raise ConfigError(
            f"{type(model).__name__} cannot take a batch of {(batch, *shape)} in {way}: {first_line(error)}"
        ) from error
    used = meter.peak - weights - gradients
    return Memory(weights, gradients, used, meter.peak, tuple(steps))


@contextmanager
def in_mode(
    model: Module, training: bool, change: Callable[[Tensor], Tensor] | None = None
) -> Iterator[Module]:
    """A twin of the model in training or not, with gradients or without; the model stays as it is."""
    with torch.inference_mode(False), torch.set_grad_enabled(training):
        yield twin_of(model, change).train(training)


def _outline_as(dtype: torch.dtype, training: bool) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        as_type = dtype if tensor.is_floating_point() else tensor.dtype
        outline = torch.empty(tensor.shape, dtype=as_type, device="meta")
        return outline.requires_grad_(training and tensor.requires_grad)

    return change


def _run(model: Trunk, x: Tensor, meter: _Meter, training: bool) -> list[int]:
    """The forward and the backward pass of an outline, and what each step takes."""
    outputs: list[Tensor] = []
    steps = list(_steps(model, x, meter, training, outputs))
    if losses := [output.sum() for output in outputs if output.requires_grad]:
        # Its public callers would leave FusedAttention, and some blocks run again in there.
        ones = tuple(torch.ones_like(loss) for loss in losses)
        _engine_run_backward(
            tuple(losses), ones, False, False, (), allow_unreachable=True, accumulate_grad=True
        )
    return steps


def _steps(model: Trunk, x: Tensor, meter: _Meter, training: bool, outputs: list[Tensor]) -> Iterator[int]:
    """Yields what each step and head takes, as ``Trunk.forward`` runs them."""
    meter.start()
    # Nothing here may refer to a feature for longer than the forward pass does.
    for _, feature, found in model.steps(x):  # noqa: B007 - the last one is an output
        yield meter.read(training)
        for _, output in found:
            outputs += tensors_in([output])
            yield meter.read(training)
    if not model.heads:
        outputs.append(feature)


class _Meter(OnMeta):  # type: ignore[no-untyped-call]  # torch leaves the mode untyped
    """Counts the bytes of the storages that are alive in its context.

    Attributes:
        live: now.
        peak: the most so far.
        weights: the part of it that is always there.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.live = self.peak = self.weights = self._before = self._peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}

    def start(self) -> None:
        """Starts to count; what is alive now are the weights and the input."""
        self._before = self._peak = self.live

    def read(self, training: bool) -> int:
        """Returns what ran since the last call left alive, or in inference the most that it took."""
        used = self.live - self._before if training else self._peak - self.weights
        self._before = self._peak = self.live
        return used

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shortcut = TRAINING.get(func.overloadpacket)
        on_meta = shortcut and tensors_in(args)[0].is_meta
        result = shortcut(*args, **(kwargs or {})) if shortcut and on_meta else NotImplemented
        if result is NotImplemented:
            result = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in tensors_in((result,)):
            self._see(tensor)
        self._note(self._estimate_workspace(func, args, result))
        return result

    def _estimate_workspace(self, func: Any, args: tuple[Any, ...], result: Any) -> int:
        """What oneDNN works in on the CPU: copies of the input or output of a convolution in a layout of its
        own, and two of the gradient of its input."""
        if self.device != "cpu":
            return 0
        if func.overloadpacket is _aten.convolution:
            return max(int(args[0].nbytes), int(result.nbytes))
        if func.overloadpacket is _aten.convolution_backward and result[0] is not None:
            return 2 * int(result[0].nbytes)
        return 0

    def _note(self, workspace: int = 0) -> None:
        self.peak = max(self.peak, self.live + workspace)
        self._peak = max(self._peak, self.live + workspace)

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._storages or not tensor.is_meta:
            return

        def forget(_: object) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, forget)
        self.live += size
        self._note()
