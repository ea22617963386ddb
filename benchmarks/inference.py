"""How fast a model answers: ours, timm's, torchvision's, pytorchvideo's and the original's, in one run.

    python -m benchmarks.inference [MODEL ...] [--batches 1 16] [--rounds 5] [--threads 1] [--no-compile]

All have the same weights and see the same images; outputs are compared first (1e-4 of the largest
value in 32 bits, 2e-2 in 16), and they take turns. Peers run as they are, with channels last, in
bfloat16, and compiled with frozen weights; ours as it is and optimized, which compiles nothing; the
original, which cannot be compiled, as it is and with channels last. It is no peer in the table: it has
columns of its own, where the quicker of the two stands beside ours in the same type. Each model and
batch has a process of its own. A ratio is theirs to ours, of the same round: its median, and its
quartiles.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from benchmarks import original
from benchmarks.models import DTYPES, LEFT_OUT, MODELS, channels_last, images, models
from benchmarks.tables import about, geometric_mean, header, row
from benchmarks.timing import Ratio, Run, clocked, own_process, ratio, take_turns

BOUNDS = {"fp32": 1e-4, "bf16": 2e-2}
PLAIN = "as it is"


def contenders(name: str, x: Tensor, compiled: bool, stack: ExitStack) -> Iterator[tuple[str, Tensor, Run]]:
    """(what, its output, a timed forward pass)."""
    from classy_vision.engines import optimize

    for library, model in models(name):
        yield f"{library}, {PLAIN}", *_run(model, x)
        if library == "ours":
            for short, dtype in DTYPES.items():
                yield f"ours, optimized {short}", *_run(optimize(model, x, dtype=dtype), x)
            if original.there(name):
                theirs = stack.enter_context(original.Original())
                theirs.load(name, model, x)
                yield f"{original.NAME}, {PLAIN}", *theirs.forward("plain")
                yield f"{original.NAME}, channels last fp32", *theirs.forward("channels last")
            continue
        for short, dtype in DTYPES.items():
            options: dict[str, Any] = {"dtype": dtype, "memory_format": channels_last(x)}
            twin, inputs = copy.deepcopy(model).to(**options), x.to(**options)
            yield f"{library}, channels last {short}", *_run(twin, inputs)
            if compiled:
                frozen = torch.compile(twin, options={"freezing": True})
                yield f"{library}, compiled and frozen {short}", *_run(frozen, inputs)


def _run(model: Any, x: Tensor) -> tuple[Tensor, Run]:
    return model(x), clocked(lambda: model(x))  # the first call compiles


def measure(name: str, batch: int, rounds: int, compiled: bool) -> dict[str, list[float]]:
    """Milliseconds per sample of each contender, round by round."""
    runs: dict[str, Run] = {}
    wanted: Tensor | None = None
    with torch.inference_mode(), ExitStack() as stack:
        for what, output, run in contenders(name, images(name, batch), compiled, stack):
            output = output.float()
            wanted = output if wanted is None else wanted
            difference = ((output - wanted).abs().max() / wanted.abs().max()).item()
            if not difference <= BOUNDS[_type(what)]:
                raise SystemExit(f"{name}: the output of {what} is {difference:.2g} off")
            runs[what] = run
        times = take_turns(runs, rounds)
    return {what: [ms / batch for ms in values] for what, values in times.items()}


# -- the table


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """The fastest of peers, of the original and of ours in each type; then all medians and quartiles."""
    lines = []
    columns = [column for short in DTYPES for column in (f"fastest peer, {short}", f"ours, {short}", "ratio")]
    columns += [original.NAME, "ratio to ours, fp32", "timm or its like, plain", "our best", "ratio"]
    summary = [header("", *columns)]
    ratios: dict[int, list[float]] = {}
    for case, times in results.items():
        medians = {what: statistics.median(values) for what, values in times.items()}
        lines += [f"\n**{case}**\n", header("", "ms per sample", "quartiles")]
        for what, median in medians.items():
            low, _, high = statistics.quantiles(times[what], n=4)
            lines.append(row([what, f"{median:.2f}", f"{low:.2f} to {high:.2f}"]))
        cells = _cells(times, medians)
        for place, cell in enumerate(cells):
            if isinstance(cell, Ratio):
                ratios.setdefault(place, []).append(cell.median)
        summary.append(row([case, *(f"{cell:.2f}" if isinstance(cell, Ratio) else cell for cell in cells)]))
    means = {place: f"**{geometric_mean(values):.2f}**" for place, values in ratios.items()}
    last = ["geometric mean", *(means.get(place, "") for place in range(len(columns)))]
    return "\n".join([*summary, row(last), *lines])


def _cells(times: dict[str, list[float]], medians: dict[str, float]) -> list[str | Ratio]:
    """A row of the summary: words, and ratios."""
    cells: list[str | Ratio] = []
    best: dict[str, str] = {}
    peers = {what: ms for what, ms in medians.items() if not what.startswith(("ours", original.NAME))}
    for short in DTYPES:
        theirs = {what: ms for what, ms in peers.items() if _type(what) == short}
        ours = [what for what in medians if what.startswith("ours") and _type(what) == short]
        best[short] = min(ours, key=medians.__getitem__)
        fastest = min(theirs, key=theirs.__getitem__)
        cells += [f"{theirs[fastest]:.2f} ({fastest.removesuffix(' ' + short)})", f"{medians[best[short]]:.2f}"]
        cells.append(ratio(times[fastest], times[best[short]]))
    originals = {what: ms for what, ms in medians.items() if what.startswith(original.NAME)}
    if originals:
        fastest = min(originals, key=originals.__getitem__)
        word = fastest.removeprefix(f"{original.NAME}, ").removesuffix(" fp32")
        cells += [f"{originals[fastest]:.2f} ({word})", ratio(times[fastest], times[best["fp32"]])]
    else:
        cells += ["", ""]
    plain = next(what for what in reversed(peers) if what.endswith(PLAIN))
    quickest = min(best.values(), key=medians.__getitem__)
    ending = [f"{medians[what]:.2f}" for what in (plain, quickest)]
    return [*cells, *ending, ratio(times[plain], times[quickest])]


def _type(what: str) -> str:
    return "bf16" if what.endswith("bf16") else "fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--one", action="store_true", help="measure one case and print it as JSON")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("quartiles take --rounds 2 or more")
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 64  # pytorchvideo's blocks are many of one class
    if options.one:
        [name], [batch] = options.models, options.batches
        print(json.dumps(measure(name, batch, options.rounds, not options.no_compile)))
        return
    results = {}
    for name in options.models:
        most = 4 if name == "slow_r50" else max(options.batches)
        for batch in dict.fromkeys(min(batch, most) for batch in options.batches):
            print(f"{name}, batch {batch} ...", file=sys.stderr, flush=True)
            arguments = ["--one", "--batches", batch, "--rounds", options.rounds * (3 if batch == 1 else 1)]
            arguments += ["--threads", options.threads, *(["--no-compile"] if options.no_compile else [])]
            results[f"{name}, batch {batch}"] = own_process("inference", name, *arguments)
    print(about(options.threads, "milliseconds per sample, medians", *LEFT_OUT, *original.note()))
    print(table(results))


if __name__ == "__main__":
    main()
