"""Puts a model on the engine that runs it fastest."""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.engines.compiled import Compiled
from classy_vision.engines.engine import NAMES, check_installed, find_engine, find_missing
from classy_vision.engines.optimized import About, Optimized, Part, Running
from classy_vision.engines.program import TOLERANCES, Program, Reading, check_tolerance, measure_difference
from classy_vision.engines.report import Attempt, EngineReport
from classy_vision.identify.networks import load_model
from classy_vision.models.classy_model import ClassyModel

TIME_BUDGET = 10.0
COMPILING_SECONDS = 60.0
"""What inductor takes at least for a network of usual depth, on two cores."""
SAMPLE_SECONDS = 0.5
"""Engines are compared with so many images of the example that the model takes about so long for them."""
ROUNDS = (3, 100)
"""The fewest and the most calls by which an engine is timed."""
TIMING_SECONDS = 1.5
HOPELESS = 1.3
"""An engine that is slower than the fastest by this factor is timed no further."""
OPERATORS = re.compile(r"No conversion rule found for operations?:[^\n]*|No ONNX function found[^\n]*")
"""How engines say which operator they lack, further down in their errors."""
ARITHMETIC = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}
"""The instructions of x86 for a dtype."""

Dtype = Literal["float32", "bfloat16", "float16"]


def optimize(
    model: ClassyModel | str | Path,
    example: Tensor | None = None,
    *,
    engine: str = "auto",
    dtype: Dtype | torch.dtype = "float32",
    threads: int | None = None,
    tolerance: float | None = None,
    time_budget: float = TIME_BUDGET,
    cache_dir: str | Path | None = None,
    pack: bool | None = None,
    compile: bool | None = None,
) -> Optimized:
    """Puts a copy of ``model`` on an engine for inference: same heads and blocks, same outputs.

    "auto" builds the engines that are installed, compares their outputs with the model's on the example, times
    them in turns, and keeps the fastest. ``report`` says what was tried and measured.

    Args:
        model: it does not change. Or a word that means a model with weights, such as a run folder or
            "timm/resnet50.a1_in1k".
        example: a batch of the usual image size and number of images; one random image by default.
        engine: "auto", "openvino", "onnxruntime", "torch" (inductor) or "plain" (torch as it is).
        dtype: of the arithmetic. Inputs and outputs stay float32.
        threads: of the processor, for one call; by default as many as torch uses. torch itself has one number
            for all models, ``torch.set_num_threads``.
        tolerance: the largest difference of an output, relative to its largest value; by default 1e-3 in
            float32, 1e-2 in float16 and 5e-2 in bfloat16.
        time_budget: the seconds after which "auto" starts no other engine. "torch" compiles for a minute or
            more, so that it takes a larger budget than the default of 10.
        cache_dir: a folder where OpenVINO keeps what it has compiled, for the next process.
        pack, compile: deprecated. ``compile=True`` is ``engine="torch"``.

    Raises:
        TypeError: ``model`` is not a ``ClassyModel``.
        UnknownNameError: there is no such engine or dtype.
        ConfigError: the engine is not installed, cannot run the model, or differs by more than ``tolerance``.
    """
    if pack is not None or compile is not None:
        engine = _replace_old_arguments(engine, compile)
    if engine != "auto":
        check_installed(find_engine(engine))
    if isinstance(model, (str, Path)):
        model = load_model(model, "optimize")
    return _choose(*_prepare(model, example, dtype, threads, tolerance, cache_dir), engine, time_budget)


def _replace_old_arguments(engine: str, compile: bool | None) -> str:
    warnings.warn(
        "optimize(pack=..., compile=...) will be removed in the next version: compile=True is engine='torch', "
        "and torch.export takes the model as it is",
        DeprecationWarning,
        stacklevel=3,
    )
    return "torch" if compile else engine


def _choose(program: Program, tolerance: float, engine: str, time_budget: float) -> Optimized:
    if engine == "auto":
        tried = _try_all(program, tolerance, time_budget)
    else:
        tried = [_Candidate(find_engine(engine), _find_reason_against(engine, program))]
        if not tried[0].note:
            tried[0].build(program, tolerance)
    if not any(one.running for one in tried):
        raise ConfigError("; ".join(f"the engine {one.engine.name!r} {one.note}" for one in tried))
    _time([one for one in tried if one.running], program.example)
    return _finish(tried, program, tolerance)


@dataclass
class _Candidate:
    """An engine, and what came of it.

    Attributes:
        note: why it was not tried, or what went wrong, or what is to be said of it.
        running: what was built.
        seconds: for building it.
        difference: from the model.
        times: of calls.
    """

    engine: type[Compiled]
    note: str = ""
    running: Running | None = None
    seconds: float = 0.0
    difference: float = 0.0
    times: list[float] = field(default_factory=list)

    def build(self, program: Program, tolerance: float) -> None:
        """Builds it, or notes what went wrong."""
        start = time.perf_counter()
        try:
            self.running, self.difference = _build(self.engine, program, tolerance)
        except ConfigError as error:
            self.note = str(error)
        except Exception as error:  # engines raise whatever they stumble over
            operators = OPERATORS.search(str(error))
            reason = operators.group() if operators else first_line(error)
            self.note = f"cannot run the model: {reason[:300]}"
        else:
            self.seconds = time.perf_counter() - start
            if lacks_arithmetic(program):
                dtype = program.dtype
                self.note = f"this processor has no arithmetic in {dtype}, which makes it slower than float32"

    def describe(self) -> Attempt:
        """Returns what the report says of it."""
        if self.running is None:
            return Attempt(self.engine.name, note=self.note)
        milliseconds = 1000 * median(self.times)
        return Attempt(self.engine.name, milliseconds, self.seconds, self.difference, self.note)


# -- what is asked for


def _prepare(
    model: Any, example: Any, dtype: Any, threads: Any, tolerance: Any, cache_dir: Any
) -> tuple[Program, float]:
    """Checks the arguments of ``optimize`` and runs the model once.

    Returns:
        A program that gives the model's outputs for a part of the example, and the tolerance.

    Raises:
        TypeError, ConfigError: as ``optimize`` does.
    """
    if not isinstance(model, ClassyModel):
        raise TypeError(f"optimize takes a ClassyModel, not {type(model).__name__}")
    name = str(dtype).removeprefix("torch.")
    if name not in TOLERANCES:
        raise unknown("dtype", name, TOLERANCES)
    check_tolerance(tolerance)
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ConfigError(f"threads = {threads!r}: give a whole number above 0")
    try:
        model = copy.deepcopy(model).eval().requires_grad_(False)
    except Exception as error:  # of whatever a module holds, such as locks
        raise ConfigError(f"{type(model).__name__} cannot be copied: {first_line(error)}") from error
    example = _check_example(model, example)
    start = time.perf_counter()
    program = Program(Reading(model), example[:1], name, threads or torch.get_num_threads(), cache_dir)
    try:
        _ = program.reference
    except (ConfigError, ValueError, TypeError):
        raise
    except Exception as error:  # of whatever a module does
        shape = tuple(example.shape)
        raise ConfigError(
            f"the model does not run on an example of shape {shape}: {first_line(error)}"
        ) from error
    count = int(SAMPLE_SECONDS / (time.perf_counter() - start))
    if len(example) > 1 < count:
        program = replace(program, example=example[:count].contiguous())
    return program, tolerance or TOLERANCES[name]


def _check_example(model: ClassyModel, example: Any) -> Tensor:
    device = next(model.parameters(), torch.empty(0)).device
    if example is None:
        return torch.randn(1, *model.input_shape, device=device)
    if not isinstance(example, Tensor) or not example.numel():
        what = f"{tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise ConfigError(f"example: a batch is needed, as a tensor, not {what}")
    return example.detach().to(device, torch.float32)


def lacks_arithmetic(program: Program) -> bool:
    """Whether the processor has no instructions for the dtype of a program."""
    wanted, has = ARITHMETIC.get(program.dtype), torch.cpu.get_capabilities()
    on_x86 = program.example.device.type == "cpu" and has.get("architecture") == "x86_64"
    return on_x86 and wanted is not None and not any(has.get(name) for name in wanted)


# -- building and timing


def _find_reason_against(name: str, program: Program) -> str:
    """Returns why an engine is not for this program; "" where nothing is against it."""
    device, devices = program.example.device.type, find_engine(name).devices
    if device not in devices:
        return f"does not run on {device}, where the model is (it runs on {', '.join(devices)})"
    threads = torch.get_num_threads()
    if name in ("torch", "plain") and device == "cpu" and program.threads != threads:
        return (
            f"runs with the {threads} threads that torch uses, not {program.threads}: "
            f"call torch.set_num_threads({program.threads}) before"
        )
    return ""


def _try_all(program: Program, tolerance: float, budget: float) -> list[_Candidate]:
    start = time.perf_counter()
    tried: list[_Candidate] = []
    for name in NAMES:
        one, left = _Candidate(find_engine(name)), budget - (time.perf_counter() - start)
        if command := find_missing(one.engine):
            one.note = f"is not installed, and is often the fastest: {command}"
        elif reason := _find_reason_against(name, program):
            one.note = reason
        elif name == "torch" and left < COMPILING_SECONDS:
            one.note = (
                f"was not tried, as it compiles for over a minute: time_budget={budget + 120:.0f} tries it"
            )
        elif left < 0 and any(other.running for other in tried):
            one.note = (
                f"was not tried, since the time budget of {budget:g} s is spent: a larger time_budget tries it"
            )
        else:
            one.build(program, tolerance)
        tried.append(one)
    return tried


def _build(engine: type[Compiled], program: Program, tolerance: float) -> tuple[Running, float]:
    """Compiles a program and compares it with the model.

    Raises:
        ConfigError: it differs by more than the tolerance.
    """
    names, places, wanted = program.reference  # says which block is unknown
    compiled = engine.compile(program)
    differences = [*map(measure_difference, compiled(program.example), wanted)]
    difference = max(differences)
    if not difference <= tolerance:
        name = names[places.index(differences.index(difference))]
        raise ConfigError(
            f"differs from the model by {difference:.1e}{f' in {name!r}' if name else ''}; allowed is "
            f"tolerance = {tolerance:g}"
        )
    shape = tuple(program.example.shape[1:])
    part = Part(blocks=program.module.blocks, input_shape=shape, names=names, places=places)
    return Running(part, compiled), difference


def _time(candidates: Sequence[_Candidate], example: Tensor) -> None:
    """Times the engines that run, in turns, without those that are far behind the fastest."""
    start = time.perf_counter()
    images = {"torch": example, "numpy": example.numpy(force=True)}
    rest = list(candidates)
    for turn in range(ROUNDS[1] + 1):
        for one in rest:
            assert one.running is not None
            begin = time.perf_counter()
            one.running.compiled.run(images[one.running.compiled.takes])
            one.times = [*one.times[turn == 1 :], time.perf_counter() - begin]  # the first call warms up
        if turn == 2:
            limit = HOPELESS * min(min(one.times) for one in rest)
            rest = [one for one in rest if min(one.times) <= limit]
        if len(rest) < 2 <= turn or (turn >= ROUNDS[0] and time.perf_counter() - start > TIMING_SECONDS):
            break


def _finish(tried: Sequence[_Candidate], program: Program, tolerance: float) -> Optimized:
    best = min((one for one in tried if one.running), key=lambda one: median(one.times))
    engine, model = best.engine, program.module.model
    assert best.running is not None
    if best.note:
        warnings.warn(f"the engine {engine.name!r}: {best.note}", stacklevel=3)

    def build(blocks: tuple[str, ...] | None, shape: tuple[int, ...]) -> Running:
        example = torch.randn(len(program.example), *shape).to(program.example)
        try:
            return _build(engine, replace(program, module=Reading(model, blocks), example=example), tolerance)[
                0
            ]
        except (ValueError, TypeError):
            raise
        except Exception as error:  # engines raise whatever they stumble over
            size = "x".join(map(str, shape))
            raise ConfigError(
                f"the engine {engine.name!r} cannot run inputs of {size}: {first_line(error)}"
            ) from error

    about = About(
        engine=engine.name, dtype=program.dtype, model=type(model).__name__, parts=(best.running.part,)
    )
    attempts = tuple(one.describe() for one in tried)
    report = EngineReport(engine.name, tuple(program.example.shape), program.dtype, program.threads, attempts)
    return Optimized(about, [best.running], report, build)
