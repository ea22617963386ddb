"""How fast a model answers: ours, timm's, torchvision's, pytorchvideo's and the original's, in one run.

    python -m benchmarks.inference [MODEL ...] [--batches 1 16] [--threads 1 2] [--rounds 5]
        [--types fp32 bf16] [--no-compile]

All have the same weights and see the same images; outputs are compared first (1e-3 of the largest
value in 32 bits, 5e-2 in 16), and they take turns. The contenders:

- peers in torch's own modes: as they are, with channels last, and compiled with frozen weights, in both types;
- the engines by hand: ONNX Runtime and OpenVINO, on what torch exports of the first peer, and on ours;
- ours, as it is and by ``optimize``, which chooses an engine by itself;
- the original, which cannot be compiled, as it is and with channels last. It has columns of its own.

Threads are one, and all of the processor; the original has one. Each model, batch and number of threads has a
process of its own. Ratios are of the same round: their medians. Int8 is in ``benchmarks.int8``, and the first
answer of a process in ``benchmarks.cold_start``.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import original
from benchmarks.by_hand import onnx_of, openvino_of, run_onnx, run_openvino
from benchmarks.models import DTYPES, LEFT_OUT, MODELS, channels_last, images, models
from benchmarks.tables import about, geometric_mean, header, row
from benchmarks.timing import Run, clocked, own_process, ratio, take_turns

BOUNDS = {"fp32": 1e-3, "bf16": 5e-2}
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
PLAIN = "as it is"
ENGINES = ("ONNX Runtime", "OpenVINO")
Dtypes = Mapping[str, torch.dtype]
Contender = tuple[str, Tensor, Run]
"""What it is, its output, and a timed forward pass."""


def contenders(name: str, x: Tensor, dtypes: Dtypes, compiled: bool, stack: ExitStack) -> Iterator[Contender]:
    for i, (library, model) in enumerate(models(name)):
        yield f"{library}, {PLAIN}", *_run(model, x)
        if library != "ours":
            yield from _modes(library, model, x, dtypes, compiled)
        if i < 2:  # ours, and the first peer
            yield from _engines(library, model, x, dtypes)
        if library == "ours":
            yield from _ours(model, x, dtypes)
            if original.there(name) and torch.get_num_threads() == 1:
                theirs = stack.enter_context(original.Original())
                theirs.load(name, model, x)
                yield f"{original.NAME}, {PLAIN}", *theirs.forward("plain")
                yield f"{original.NAME}, channels last fp32", *theirs.forward("channels last")


def _ours(model: Any, x: Tensor, dtypes: Dtypes) -> Iterator[Contender]:
    from classy_vision.engines import optimize

    for short, dtype in dtypes.items():
        start = time.perf_counter()
        fast = optimize(model, x, dtype=dtype)
        print(f"optimize took {time.perf_counter() - start:.1f} s\n{fast.report}", file=sys.stderr, flush=True)
        yield f"ours, optimized {short}", *_run(fast, x)


def _modes(library: str, model: nn.Module, x: Tensor, dtypes: Dtypes, compiled: bool) -> Iterator[Contender]:
    """torch's own ways to run a model faster."""
    for short, dtype in dtypes.items():
        options: dict[str, Any] = {"dtype": dtype, "memory_format": channels_last(x)}
        twin, inputs = copy.deepcopy(model).to(**options), x.to(**options)
        yield f"{library}, channels last {short}", *_run(twin, inputs)
        if compiled:
            frozen = torch.compile(twin, options={"freezing": True})
            yield f"{library}, compiled and frozen {short}", *_run(frozen, inputs)


def _engines(library: str, model: nn.Module, x: Tensor, dtypes: Dtypes) -> Iterator[Contender]:
    """The engines by hand."""
    threads, images = torch.get_num_threads(), x.numpy()
    calls = {"ONNX Runtime fp32": run_onnx(onnx_of(model, x), images, threads)}
    if find_spec("openvino"):
        converted = openvino_of(model, x)
        for short in dtypes:
            calls[f"OpenVINO {short}"] = run_openvino(converted, images, threads, PRECISIONS[short])
    for what, call in calls.items():
        yield f"{library}, {what}", torch.from_numpy(call()[0].copy()), clocked(call)


def _run(model: Any, x: Tensor) -> tuple[Tensor, Run]:
    return model(x), clocked(lambda: model(x))  # the first call compiles


def measure(name: str, batch: int, rounds: int, dtypes: Dtypes, compiled: bool) -> dict[str, list[float]]:
    """Milliseconds per sample of each contender, round by round."""
    runs: dict[str, Run] = {}
    wanted: Tensor | None = None
    with torch.inference_mode(), ExitStack() as stack:
        for what, output, run in contenders(name, images(name, batch), dtypes, compiled, stack):
            output = output.float()
            wanted = output if wanted is None else wanted
            difference = ((output - wanted).abs().max() / wanted.abs().max()).item()
            if not difference <= BOUNDS[_type(what)]:
                raise SystemExit(f"{name}: the output of {what} is {difference:.2g} off")
            runs[what] = run
        times = take_turns(runs, rounds)
    return {what: [ms / batch for ms in values] for what, values in times.items()}


# -- the table


def table(results: dict[str, dict[str, list[float]]], types: Sequence[str] = ()) -> str:
    """For each type torch's modes, the engines by hand and ours; then all medians and quartiles."""
    types = types or list(DTYPES)
    columns = [f"{column}, {short}" for short in types for column in ("torch's modes", "engines", "ours")]
    columns += ["engines / ours", "torch's modes / ours", "plain / ours", f"{original.NAME} / ours"]
    summary, lines = [header("", *columns)], []
    ratios: dict[int, list[float]] = {}
    for case, times in results.items():
        medians = {what: statistics.median(values) for what, values in times.items()}
        lines += [f"\n**{case}**\n", header("", "ms per sample", "quartiles")]
        for what, median in medians.items():
            low, _, high = statistics.quantiles(times[what], n=4)
            lines.append(row([what, f"{median:.2f}", f"{low:.2f} to {high:.2f}"]))
        words, found = _cells(times, medians, types)
        for place, value in found.items():
            ratios.setdefault(place, []).append(value)
        summary.append(row([case, *words, *(f"{found[i]:.2f}" if i in found else "" for i in range(4))]))
    means = [f"**{geometric_mean(ratios[i]):.2f}**" if i in ratios else "" for i in range(4)]
    last = ["geometric mean", *[""] * 3 * len(types), *means]
    return "\n".join([*summary, row(last), *lines])


def _cells(
    times: dict[str, list[float]], medians: dict[str, float], types: Sequence[str]
) -> tuple[list[str], dict[int, float]]:
    """The words of a row, and its ratios by place; those are of fp32."""
    words: list[str] = []
    for short in types:
        for group in ("modes", "engines", "ours"):
            best = _fastest(group, short, medians)
            words.append(f"{medians[best]:.2f} ({best.removesuffix(' ' + short)})" if best else "")
    ours = times["ours, optimized fp32"]
    found = {}
    for place, group in enumerate(("engines", "modes", "plain", "original")):
        if best := _fastest(group, "fp32", medians):
            found[place] = ratio(times[best], ours).median
    return words, found


def _fastest(group: str, short: str, medians: dict[str, float]) -> str | None:
    """The fastest contender of a group in a type."""

    def belongs(what: str) -> bool:
        library, _, mode = what.partition(", ")
        kind = "engines" if mode.startswith(ENGINES) else "plain" if mode == PLAIN else "modes"
        if library == "ours" and kind != "engines":
            return group == "ours" and mode.startswith("optimized")
        if library == original.NAME:
            return group == "original"
        return kind == group or (group == "modes" and kind == "plain")

    found = [what for what in medians if belongs(what) and _type(what) == short]
    return min(found, key=medians.__getitem__, default=None)


def _type(what: str) -> str:
    return "bf16" if what.endswith("bf16") else "fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, len(os.sched_getaffinity(0))}))
    parser.add_argument("--types", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--one", action="store_true", help="measure one case and print it as JSON")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("quartiles take --rounds 2 or more")
    warnings.simplefilter("ignore")
    torch._dynamo.config.recompile_limit = 64  # pytorchvideo's blocks are many of one class
    if options.one:
        [name], [batch], [threads] = options.models, options.batches, options.threads
        torch.set_num_threads(threads)
        dtypes = {short: DTYPES[short] for short in options.types}
        print(json.dumps(measure(name, batch, options.rounds, dtypes, not options.no_compile)))
        return
    results = {}
    for name, threads in product(options.models, options.threads):
        most = 4 if name == "slow_r50" else max(options.batches)
        for batch in dict.fromkeys(min(batch, most) for batch in options.batches):
            case = f"{name}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
            print(f"{case} ...", file=sys.stderr, flush=True)
            arguments = ["--one", "--batches", batch, "--rounds", options.rounds * (3 if batch == 1 else 1)]
            arguments += [
                "--types",
                *options.types,
                "--threads",
                threads,
                *(["--no-compile"] if options.no_compile else []),
            ]
            results[case] = own_process("inference", name, *arguments)
    print(about(max(options.threads), "milliseconds per sample, medians", *LEFT_OUT, *original.note()))
    print(table(results, options.types))


if __name__ == "__main__":
    main()
