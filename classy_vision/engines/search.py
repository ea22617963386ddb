"""Puts a model on the engine that runs it fastest."""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.engines.engine import NAMES, Compiled, Engine, check_installed, find_engine, find_missing
from classy_vision.engines.optimized import About, Optimized, Part, Running
from classy_vision.engines.program import TOLERANCES, Program, Reading, check_tolerance
from classy_vision.engines.report import Attempt, Report
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
        pack, compile: deprecated. ``compile=True`` is ``engine="torch"``.

    Raises:
        TypeError: ``model`` is not a ``ClassyModel``.
        UnknownNameError: there is no such engine or dtype.
        ConfigError: the engine is not installed, cannot run the model, or differs by more than ``tolerance``.
    """
    if pack is not None or compile is not None:
        engine = _replace_old_arguments(engine, compile)
    if isinstance(model, (str, Path)):
        model = load_model(model, "optimize")
    return _choose(_prepare(model, example, dtype, threads, tolerance), engine, time_budget)


def _choose(task: _Task, engine: str, time_budget: float) -> Optimized:
    if engine != "auto":
        chosen = find_engine(engine)
        check_installed(chosen)
        if reason := _find_reason_against(chosen, task):
            raise ConfigError(f"the engine {engine!r} {reason}")
    names = NAMES if engine == "auto" else (engine,)
    tried = _try_all(names, task, time_budget if engine == "auto" else float("inf"))
    if not any(one.running for one in tried):
        notes = (one.attempt for one in tried)
        raise ConfigError("; ".join(f"the engine {attempt.engine!r} {attempt.note}" for attempt in notes))
    tried = _time(tried, task.program.example)
    attempts = tuple(one.attempt for one in tried)
    able = [one for one in tried if one.running is not None]
    best = min(able, key=lambda one: one.attempt.milliseconds or 0.0)
    return _finish(task, best, attempts)


def _replace_old_arguments(engine: str, compile: bool | None) -> str:
    warnings.warn(
        "optimize(pack=..., compile=...) will be removed in the next version: compile=True is engine='torch', "
        "and torch.export takes the model as it is",
        DeprecationWarning,
        stacklevel=3,
    )
    return "torch" if compile else engine


@dataclass(frozen=True)
class _Task:
    """What is asked for, checked.

    Attributes:
        program: gives the model's outputs for a part of the example.
        shape: of the whole example.
    """

    model: ClassyModel
    program: Program
    shape: tuple[int, ...]
    tolerance: float

    def build(self, engine: Engine, program: Program) -> tuple[Running, float]:
        """Compiles a program and compares it with the model.

        Raises:
            ConfigError: it differs by more than the tolerance.
        """
        reference = program.reference
        compiled = engine.compile(program)
        difference, place = max(
            (_compare(output, wanted), i)
            for i, (output, wanted) in enumerate(
                zip(_call(compiled, program.example), reference.outputs, strict=True)
            )
        )
        if not difference <= self.tolerance:
            name = reference.names[reference.places.index(place)]
            raise ConfigError(
                f"differs from the model by {difference:.1e}{f' in {name!r}' if name else ''}; allowed is "
                f"tolerance = {self.tolerance:g}"
            )
        part = Part(
            blocks=program.module.blocks,
            input_shape=tuple(program.example.shape[1:]),
            names=reference.names,
            places=reference.places,
        )
        return Running(part, compiled), difference


@dataclass(frozen=True)
class _Tried:
    attempt: Attempt
    running: Running | None = None


def _prepare(model: Any, example: Any, dtype: Any, threads: Any, tolerance: Any) -> _Task:
    """Checks the arguments of ``optimize`` and runs the model once.

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
    program = Program(Reading(model), example[:1], name, threads or torch.get_num_threads())
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
    return _Task(model, program, tuple(example.shape), tolerance or TOLERANCES[name])


def _check_example(model: ClassyModel, example: Any) -> Tensor:
    device = next(model.parameters(), torch.empty(0)).device
    if example is None:
        return torch.randn(1, *model.input_shape, device=device)
    if not isinstance(example, Tensor) or not example.numel():
        what = f"{tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise ConfigError(f"example: a batch is needed, as a tensor, not {what}")
    return example.detach().to(device, torch.float32)


def _find_reason_against(engine: Engine, task: _Task) -> str:
    """Returns why ``engine`` is not for this task; "" where nothing is against it."""
    device = task.program.example.device.type
    if device not in engine.DEVICES:
        return f"does not run on {device}, where the model is (it runs on {', '.join(engine.DEVICES)})"
    if (
        engine.NAME in ("torch", "plain")
        and device == "cpu"
        and task.program.threads != torch.get_num_threads()
    ):
        return (
            f"runs with the {torch.get_num_threads()} threads that torch uses, not {task.program.threads}: "
            f"call torch.set_num_threads({task.program.threads}) before"
        )
    return ""


def _try_all(names: Sequence[str], task: _Task, budget: float) -> list[_Tried]:
    start = time.perf_counter()
    tried: list[_Tried] = []
    for name in names:
        engine, left = find_engine(name), budget - (time.perf_counter() - start)
        if command := find_missing(engine):
            note = f"is not installed, and is often the fastest: {command}"
        elif reason := _find_reason_against(engine, task):
            note = reason
        elif name == "torch" and left < COMPILING_SECONDS:
            note = f"was not tried, as it compiles for over a minute: time_budget={budget + 120:.0f} tries it"
        elif left < 0 and any(one.running for one in tried):
            note = (
                f"was not tried, since the time budget of {budget:g} s is spent: a larger time_budget tries it"
            )
        else:
            tried.append(_try(engine, task))
            continue
        tried.append(_Tried(Attempt(name, note=note)))
    return tried


def _try(engine: Engine, task: _Task) -> _Tried:
    start, dtype = time.perf_counter(), task.program.dtype
    try:
        running, difference = task.build(engine, task.program)
    except ConfigError as error:
        return _Tried(Attempt(engine.NAME, note=str(error)))
    except Exception as error:  # engines raise whatever they stumble over
        found = OPERATORS.search(str(error))
        reason = found.group() if found else first_line(error)
        return _Tried(Attempt(engine.NAME, note=f"cannot run the model: {reason[:300]}"))
    note = ""
    if engine.emulates(dtype):
        note = f"this processor has no arithmetic in {dtype}, which makes it slower than float32"
    return _Tried(Attempt(engine.NAME, None, time.perf_counter() - start, difference, note), running)


def _time(tried: Sequence[_Tried], example: Tensor) -> list[_Tried]:
    """Times the engines that run, in turns, and drops those that are far behind the fastest."""
    times: dict[int, list[float]] = {i: [] for i, one in enumerate(tried) if one.running is not None}
    calls = {i: _bind(tried[i].running, example) for i in times}
    start = time.perf_counter()
    for turn in range(ROUNDS[1] + 1):
        for i, call in calls.items():
            begin = time.perf_counter()
            call()
            times[i].append(time.perf_counter() - begin)
        if turn == 0:  # warms up
            times = {i: [] for i in times}
        if turn == 2:
            limit = HOPELESS * min(map(min, times.values()))
            calls = {i: call for i, call in calls.items() if min(times[i]) <= limit}
        if len(calls) < 2 <= turn or (turn >= ROUNDS[0] and time.perf_counter() - start > TIMING_SECONDS):
            break
    return [
        replace(one, attempt=replace(one.attempt, milliseconds=1000 * median(times[i]))) if i in times else one
        for i, one in enumerate(tried)
    ]


def _finish(task: _Task, best: _Tried, attempts: tuple[Attempt, ...]) -> Optimized:
    engine, program = find_engine(best.attempt.engine), task.program
    assert best.running is not None
    if best.attempt.note:
        warnings.warn(f"the engine {engine.NAME!r}: {best.attempt.note}", stacklevel=3)

    def build(blocks: tuple[str, ...] | None, shape: tuple[int, ...]) -> Running:
        example = torch.randn(len(program.example), *shape).to(program.example)
        try:
            return task.build(engine, replace(program, module=Reading(task.model, blocks), example=example))[0]
        except (ValueError, TypeError):
            raise
        except Exception as error:  # engines raise whatever they stumble over
            size = "x".join(map(str, shape))
            raise ConfigError(
                f"the engine {engine.NAME!r} cannot run inputs of {size}: {first_line(error)}"
            ) from error

    about = About(
        engine=engine.NAME, dtype=program.dtype, model=type(task.model).__name__, parts=(best.running.part,)
    )
    report = Report(engine.NAME, tuple(program.example.shape), program.dtype, program.threads, attempts)
    return Optimized(about, [best.running], report, build)


def _compare(output: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    if output.shape != wanted.shape or not output.isfinite().all():
        return float("inf")
    scale = max(float(wanted.abs().max()), 1e-12)
    return float((output.to(wanted) - wanted).abs().max()) / scale


def _input(compiled: Compiled, images: Tensor) -> Any:
    return images.numpy(force=True) if compiled.takes == "numpy" else images


def _call(compiled: Compiled, images: Tensor) -> list[Tensor]:
    return [torch.as_tensor(output) for output in compiled(_input(compiled, images))]


def _bind(running: Running | None, example: Tensor) -> Any:
    """Returns a call with the example, as the engine takes it."""
    assert running is not None
    images = _input(running.compiled, example)
    return lambda: running.compiled(images)
