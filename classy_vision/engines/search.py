"""Puts a model on the engine that runs it fastest."""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.engines.compiled import Compiled
from classy_vision.engines.engine import NAMES, check_installed, find_engine, find_missing
from classy_vision.engines.optimized import About, Key, Optimized
from classy_vision.engines.program import (
    TOLERANCES,
    Program,
    Reading,
    check_tolerance,
    clock,
    measure_difference,
)
from classy_vision.engines.report import Attempt, EngineReport
from classy_vision.identify.networks import load_model
from classy_vision.models.classy_model import ClassyModel

TIME_BUDGET = 10.0
CALLS = 4
"""Of the model: building an engine takes at least so many."""
COMPILING_SECONDS = 60.0
"""What inductor takes at least for a network of usual depth, on two cores."""
SAMPLE_SECONDS = 0.5
"""Engines are compared with so many images of the example that the model takes about so long for them."""
ROUNDS = (2, 100)
"""The fewest and the most calls by which an engine is timed."""
TIMING_SECONDS = 1.0
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
        time_budget: the seconds that "auto" may take: it tries no other engine that would take longer, to
            judge by those before. "torch" compiles for a minute or more, so that it takes a larger budget
            than the default of 10.
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
    budget = _Budget(time_budget, time.perf_counter() + time_budget)
    return _choose(*_prepare(model, example, dtype, threads, tolerance, cache_dir), engine, budget)


def _replace_old_arguments(engine: str, compile: bool | None) -> str:
    warnings.warn(
        "optimize(pack=..., compile=...) will be removed in the next version: compile=True is engine='torch', "
        "and torch.export takes the model as it is",
        DeprecationWarning,
        stacklevel=3,
    )
    return "torch" if compile else engine


class _Budget(NamedTuple):
    """The seconds that "auto" may take, and when they end, by ``time.perf_counter``."""

    seconds: float
    end: float


def _choose(program: Program, tolerance: float, engine: str, budget: _Budget) -> Optimized:
    attempts: dict[str, Attempt] = {}
    built: dict[str, Compiled] = {}
    names = NAMES if engine == "auto" else (engine,)
    export_seconds = clock(lambda: _export(program, names), program.example.device)
    for name in names:
        reason = _find_reason_against(name, program)
        if engine == "auto":
            reason = _find_reason_to_skip(name, budget, program, attempts.values()) or reason
        if reason:
            attempts[name] = Attempt(name, note=reason)
            continue
        begin = time.perf_counter()
        try:
            built[name], difference = _build(find_engine(name), program, tolerance)
        except ConfigError as error:
            attempts[name] = Attempt(name, note=str(error))
        else:
            seconds = time.perf_counter() - begin
            attempts[name] = Attempt(name, None, seconds, difference, _find_reason_for_slowness(program))
    if not built:
        raise ConfigError("; ".join(f"the engine {name!r} {one.note}" for name, one in attempts.items()))
    times = _time(built, program.example)
    attempts |= {name: replace(attempts[name], milliseconds=1000 * times[name]) for name in built}
    best = min(times, key=times.__getitem__)
    if note := attempts[best].note:
        warnings.warn(f"the engine {best!r}: {note}", stacklevel=3)
    tried, shape = tuple(attempts.values()), tuple(program.example.shape)
    report = EngineReport(best, shape, program.dtype, program.threads, tried, export_seconds)
    return _wrap(built[best], report, program, tolerance)


def _wrap(compiled: Compiled, report: EngineReport, program: Program, tolerance: float) -> Optimized:
    model = program.module.model
    about = About(engine=compiled.name, dtype=program.dtype, model=type(model).__name__)

    def build(key: Key) -> Compiled:
        blocks, shape = key
        example = torch.randn(len(program.example), *shape).to(program.example)
        part = replace(program, module=Reading(model, blocks), example=example)
        _ = part.reference  # what the model says against a block or a size is the model's
        try:
            return _build(type(compiled), part, tolerance)[0]
        except ConfigError as error:
            raise ConfigError(f"the engine {compiled.name!r} {error}") from error

    return Optimized(about, {(None, report.shape[1:]): compiled}, report, build)


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
    program = Program(Reading(model), example[:1], name, threads or torch.get_num_threads(), cache_dir)
    seconds = clock(lambda: program.reference, example.device)
    count = int(SAMPLE_SECONDS / seconds)
    if len(example) > 1 < count:
        example = example[:count].contiguous()
        program, seconds = replace(program, example=example), seconds * len(example)
    return replace(program, seconds=seconds), tolerance or TOLERANCES[name]


def _check_example(model: ClassyModel, example: Any) -> Tensor:
    device = next(model.parameters(), torch.empty(0)).device
    if example is None:
        return torch.randn(1, *model.input_shape, device=device)
    if not isinstance(example, Tensor) or not example.numel():
        what = f"{tuple(example.shape)}" if isinstance(example, Tensor) else type(example).__name__
        raise ConfigError(f"example: a batch is needed, as a tensor, not {what}")
    return example.detach().to(device, torch.float32)


# -- building and timing


def _export(program: Program, names: Iterable[str]) -> None:
    """Exports a program once for all the engines that are built from an exported one."""
    engines = [find_engine(name) for name in names if not _find_reason_against(name, program)]
    if any(engine.takes_export and not find_missing(engine) for engine in engines):
        with suppress(ConfigError):  # which the engines raise again
            _ = program.exported


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


def _find_reason_to_skip(name: str, budget: _Budget, program: Program, tried: Iterable[Attempt]) -> str:
    """Returns why "auto" does not try an engine; "" where it does.

    It would not end in time if building it took as long as the slowest before, or the calls of the model for
    which that takes. The first one is always tried.
    """
    left, before = budget.end - time.perf_counter(), [one.build_seconds for one in tried if one.build_seconds]
    if command := find_missing(find_engine(name)):
        return f"is not installed, and is often the fastest: {command}"
    if name == "torch" and left < COMPILING_SECONDS:
        return (
            f"was not tried, as it compiles for over a minute: time_budget={budget.seconds + 120:.0f} tries it"
        )
    if before and left < max(*before, CALLS * program.seconds):
        return (
            f"was not tried, as the time budget of {budget.seconds:g} s would not suffice: "
            f"a larger time_budget tries it"
        )
    return ""


def _find_reason_for_slowness(program: Program) -> str:
    """Returns what is to be said where the processor has no instructions for the dtype of a program."""
    wanted, has = ARITHMETIC.get(program.dtype), torch.cpu.get_capabilities()
    on_x86 = program.example.device.type == "cpu" and has.get("architecture") == "x86_64"
    if wanted is None or not on_x86 or any(has.get(name) for name in wanted):
        return ""
    return f"this processor has no arithmetic in {program.dtype}, which makes it slower than float32"


def _build(engine: type[Compiled], program: Program, tolerance: float) -> tuple[Compiled, float]:
    """Compiles a program and compares it with the model.

    Returns:
        What the engine compiled, and the largest difference of an output.

    Raises:
        ConfigError: the engine cannot run it, or it differs by more than the tolerance.
    """
    places, wanted = program.reference
    try:
        compiled = engine.compile(program)
        compiled.outputs = places
        given = compiled(program.example)
    except ConfigError:
        raise
    except Exception as error:  # engines raise whatever they stumble over
        operators = OPERATORS.search(str(error))
        reason = operators.group() if operators else first_line(error)
        size = "x".join(map(str, program.example.shape[1:]))
        raise ConfigError(f"cannot run the model for inputs of {size}: {reason[:300]}") from error
    differences = {name: measure_difference(given[name], wanted[place]) for name, place in places.items()}
    worst = max(differences, key=differences.__getitem__)
    if not differences[worst] <= tolerance:
        where = f" in {worst!r}" if worst else ""
        raise ConfigError(
            f"differs from the model by {differences[worst]:.1e}{where}; allowed is tolerance = {tolerance:g}"
        )
    return compiled, differences[worst]


def _time(built: Mapping[str, Compiled], example: Tensor) -> dict[str, float]:
    """Returns the median seconds of a call by engine. They take turns, without those that are far behind."""
    start = time.perf_counter()
    images = {"torch": example, "numpy": example.numpy(force=True)}
    times: dict[str, list[float]] = {name: [] for name in built}
    rest = list(built)
    for turn in range(1, ROUNDS[1] + 1):
        for name in rest:
            call = partial(built[name].run, images[built[name].takes])
            times[name].append(clock(call, example.device))
        limit = HOPELESS * min(min(times[name]) for name in rest)
        rest = [name for name in rest if turn == 1 or min(times[name]) <= limit]
        if len(rest) < 2 or (turn >= ROUNDS[0] and time.perf_counter() - start > TIMING_SECONDS):
            break
    return {name: median(found) for name, found in times.items()}
