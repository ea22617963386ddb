"""What a model costs on this machine: time per step, head and whole, and memory."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.cost.count import count
from classy_vision.cost.memory import DTYPES, check_options, in_mode
from classy_vision.cost.receptive_field import tensors_in
from classy_vision.cost.room import check_fits, peak
from classy_vision.trunk.trunk import END, Trunk

Key = tuple[str, str | None]
"""A row of the costs: its name, and the step that it reads."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a batch.

    Attributes:
        median: half of the rounds took longer.
        low, high: the quartiles: a quarter took less than ``low``, a quarter longer than ``high``.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, times: Sequence[float]) -> Timing:
        low, median, high = statistics.quantiles(times, n=4, method="inclusive") if times[1:] else [*times] * 3
        return cls(median, low, high)


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        batch: samples per batch.
        whole: of the forward pass as it is called, in training with the backward pass.
        steps: of the forward pass alone, by (name, the step that a head reads): what runs, in that order.
        memory: bytes that the model and a batch took at the most, from torch's allocator.
    """

    batch: int
    whole: Timing
    steps: Mapping[Key, Timing]
    memory: int

    @property
    def latency(self) -> float:
        """Milliseconds of a batch: the median of the whole."""
        return self.whole.median

    @property
    def throughput(self) -> float:
        """Samples per second, by the median."""
        return 1000 * self.batch / self.latency

    @property
    def latencies(self) -> dict[str, float]:
        """Milliseconds by the names of steps and heads: their medians."""
        return {name: timing.median for (name, _), timing in self.steps.items()}


def measure(
    model: Trunk,
    input_shape: Sequence[int] | None = None,
    *,
    batch: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
    compile: bool = False,
    channels_last: bool = False,
    training: bool = False,
    warmup: int = 3,
    rounds: int = 20,
) -> Measured:
    """Measures time and memory of a model on random input; the model itself does not change.

    In each round the forward pass runs once as a whole, and once step by step. The steps of a compiled
    model are compiled one by one; the whole is one graph, and faster than their sum.

    Args:
        model: has weights: it is not on the meta device.
        input_shape: the shape of one sample; ``model.input_shape`` by default.
        batch: samples per batch.
        device: "cpu", "cuda" or "cuda:N".
        dtype: of weights and input: float32, float64, float16 or bfloat16.
        compile: use ``torch.compile``.
        channels_last: the memory format of images or clips.
        training: with gradients; the whole is then the forward and the backward pass.
        warmup: rounds that do not count.
        rounds: rounds that count.

    Raises:
        TypeError: the model is not a ``ClassyModel``.
        ConfigError: an option is wrong, or the model cannot run: it has no weights, say, or is too large.
    """
    shape = tuple(input_shape or model.input_shape)
    layout: Any = _memory_format(shape) if channels_last else torch.preserve_format
    where = _check(model, shape, batch, device, dtype, training, warmup, rounds)
    try:
        if training or compile or channels_last or not _is_there(model, where, DTYPES[dtype]):
            model = copy.deepcopy(model).to(where, DTYPES[dtype])
            model.to(memory_format=layout)  # type: ignore[call-overload]  # torch types 4-D alone
        x = torch.randn(batch, *shape, dtype=DTYPES[dtype], device=where).contiguous(memory_format=layout)
        with in_mode(model, training) as twin, _compiled(twin, compile) as whole:
            return _measured(twin, whole, x, training, warmup, rounds)
    except (RuntimeError, MemoryError, ValueError) as error:
        raise ConfigError(
            f"{type(model).__name__} cannot be measured with a batch of {(batch, *shape)} in {dtype} on "
            f"{device}: {first_line(error)}"
        ) from error


def _check(
    model: Trunk,
    shape: tuple[int, ...],
    batch: int,
    device: str,
    dtype: str,
    training: bool,
    warmup: int,
    rounds: int,
) -> torch.device:
    """Checks all that is known before the model runs; returns the device."""
    check_options(batch, dtype, device)
    where = check_device(device)
    for name, value, least in (("warmup", warmup, 0), ("rounds", rounds, 1)):
        if value < least:
            raise ConfigError(f"{name} = {value}: give {least} or more")
    costs = count(model, shape)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ConfigError(f"{type(model).__name__} is on the meta device: without weights it cannot run")
    check_fits(costs, batch, dtype, where, training)
    return where


def check_device(name: str) -> torch.device:
    """Returns the device with that name.

    Raises:
        ConfigError: this machine has no such device.
    """
    kind, _, index = name.partition(":")
    number = torch.cuda.device_count() if kind == "cuda" else 1
    if index and not (index.isascii() and index.isdigit() and int(index[:9]) < number):
        raise unknown("device", name, [f"{kind}:{i}" for i in range(number)])
    if kind == "cuda" and not number:
        raise ConfigError(f"device {name!r}: torch {torch.__version__} sees no GPU here; there is 'cpu'")
    return torch.device(name)


def _is_there(model: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    tensors = (*model.parameters(), *model.buffers())
    return all(t.device == device and (t.dtype == dtype or not t.is_floating_point()) for t in tensors)


def _memory_format(shape: tuple[int, ...]) -> torch.memory_format:
    formats = {3: torch.channels_last, 4: torch.channels_last_3d}
    if len(shape) not in formats:
        raise ConfigError(f"channels_last is for images and clips, not for an input of {shape}")
    return formats[len(shape)]


@contextmanager
def _compiled(model: Trunk, wanted: bool) -> Iterator[nn.Module]:
    """The model as a whole, compiled if ``wanted``, and its steps and heads compiled in place."""
    if not wanted:
        yield model
        return
    whole = copy.deepcopy(model)
    whole.compile()
    parts = [*model.blocks.values(), model.stem, model.tail] if "blocks" in model._modules else []
    heads = [head for entries in model.get_heads().values() for head in entries]
    for part in (*parts, *heads):
        part.compile()
    from torch._dynamo import config

    # Blocks of one class share their code, and each has shapes of its own.
    with config.patch(recompile_limit=1000, accumulated_recompile_limit=10_000):
        yield whole


def _measured(model: Trunk, whole: nn.Module, x: Tensor, training: bool, warmup: int, rounds: int) -> Measured:
    def forward() -> None:
        outputs = whole(x)
        if training:
            _backward(outputs)
            whole.zero_grad(set_to_none=True)

    totals: list[float] = []
    steps: dict[Key, list[float]] = {}
    for i in range(warmup + rounds):
        total, parts = _timed(forward, x.device), _walk_times(model, x)
        if i >= warmup:
            totals.append(total)
            for key, value in parts:
                steps.setdefault(key, []).append(value)
    held = sum(t.untyped_storage().nbytes() for t in (*model.parameters(), *model.buffers(), x))
    most = peak(forward, x.device) + (held if x.device.type == "cpu" else 0)
    return Measured(len(x), Timing.of(totals), {key: Timing.of(values) for key, values in steps.items()}, most)


def _backward(outputs: object) -> None:
    found = tensors_in(outputs if isinstance(outputs, dict) else [outputs])
    torch.autograd.backward([output.sum() for output in found if output.requires_grad])


class _Clock:
    """Times between moments, in milliseconds, on the CPU or in the stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.keys: list[Key | None] = []
        self._moments: list[float | torch.cuda.Event] = []
        self.mark(None)

    def mark(self, key: Key | None) -> None:
        """What ran since the last mark was ``key``; None is not reported."""
        self.keys.append(key)
        if self.device.type != "cuda":
            self._moments.append(1000 * time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # of torch
        event.record()
        self._moments.append(event)

    def times(self) -> list[tuple[Key, float]]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        pairs = zip(self.keys[1:], self._moments, self._moments[1:])
        return [(key, _between(before, after)) for key, before, after in pairs if key is not None]


def _between(before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> float:
    if isinstance(before, float) and isinstance(after, float):
        return after - before
    assert isinstance(before, torch.cuda.Event)
    assert isinstance(after, torch.cuda.Event)
    return before.elapsed_time(after)


def _timed(call: Callable[[], None], device: torch.device) -> float:
    clock = _Clock(device)
    call()
    clock.mark(("", None))
    return clock.times()[0][1]


def _walk_times(model: Trunk, x: Tensor) -> list[tuple[Key, float]]:
    with ExitStack() as stack:
        clock = _Clock(x.device)
        is_hooked = _hook(model, clock, stack)
        reads_end = not model.heads or END in model.head_steps()
        for index, (name, _, outputs) in enumerate(model.steps(x)):
            # An author's forward has run before its first feature is given.
            key = None if is_hooked and (index or not reads_end) else (END if is_hooked else name, None)
            clock.mark(key)
            for head, _ in outputs:
                clock.mark((head, name))
    return clock.times()


def _hook(model: Trunk, clock: _Clock, stack: ExitStack) -> bool:
    """Marks the ends of blocks of a module whose forward is its own, and says whether it is one."""
    hooked = model.hooked_modules()
    if hooked is None:
        return False
    for name, module in hooked.items():

        def marked(*_: object, name: str = name) -> None:
            clock.mark((name, None))

        stack.callback(module.register_forward_hook(marked, prepend=True).remove)
    return True
