"""What a training step takes in time and memory: ours, timm's, torchvision's and the original's, in one run.

    python -m benchmarks.training [MODEL ...] [--compile MODEL ...] [--batch 4] [--rounds 7] [--threads 1]

A step is the forward pass, the cross entropy, the backward pass and fused SGD with momentum. All have
the same weights, and take turns within a mode. Compiled steps are those of ``torch.compile(model)`` with
its default options and channels last; the original cannot be compiled. bf16 is mixed precision.

The memory is the largest sum of blocks that torch's allocator had given out during a step, from its
profiler, beyond model, gradients and momentum; the original's is not measured. Each model has a
process of its own. A ratio is theirs to ours, of the same round: its median, and its quartiles.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import warnings
from contextlib import ExitStack

import torch

from benchmarks import original
from benchmarks.models import LEFT_OUT, MODELS, NATIVE_BF16, images, models, training_step
from benchmarks.tables import about, geometric_mean, header, row
from benchmarks.timing import clocked, own_process, ratio, take_turns

MIB = 2**20
COMPILED = ("resnet50", "regnet_y_1.6gf", "efficientnet_b0", "vit_b_16")
"""A network takes minutes to compile for all libraries."""


Measured = tuple[str, str, list[float], int]
"""Library, mode, milliseconds round by round, and bytes: 0 where they are not known."""


def modes(compiled: bool) -> list[str]:
    every = ["plain", "channels last", "channels last, bf16"]
    every += ["compiled", "compiled, bf16"] if compiled else []
    return [mode for mode in every if NATIVE_BF16 or not mode.endswith("bf16")]


def measure(name: str, batch: int, rounds: int, compiled: bool) -> list[Measured]:
    """What all take, mode by mode."""
    from classy_vision.cost.free_memory import measure_peak as peak

    x = images(name, batch)
    target = torch.randint(400 if name == "slow_r50" else 1000, (batch,))
    every = dict(models(name))
    found = []
    with ExitStack() as stack:
        if original.there(name):
            theirs = stack.enter_context(original.Original())
            theirs.load(name, every["ours"], x, target)
        for mode in modes(compiled):  # one after the other: each model takes four times its weights
            steps = {key: training_step(copy.deepcopy(model), mode, x, target) for key, model in every.items()}
            runs = {key: clocked(step) for key, step in steps.items()}
            if original.there(name) and mode in ("plain", "channels last"):
                runs[original.NAME] = theirs.step(mode)
            for library, ms in take_turns(runs, rounds).items():
                taken = peak(steps[library], torch.device("cpu")) if library in steps else 0
                found.append((library, mode, ms, taken))
            del steps, runs
            torch._dynamo.reset()
    return found


def table(results: dict[str, list[Measured]]) -> str:
    """A row for each model and mode, with the fastest and the leanest peer, and the original."""
    lines = [
        header(
            *("", "mode", "ours, ms", "fastest peer, ms", "ratio", f"{original.NAME}, ms", "ratio"),
            *("ours, MiB", "leanest peer, MiB", "ratio"),
            words=2,
        )
    ]
    ratios: list[float] = []
    to_original: list[float] = []
    for name, found in results.items():
        for mode in dict.fromkeys(mode for _, mode, *_ in found):
            times = {library: ms for library, of, ms, _ in found if of == mode}
            bytes_ = {library: taken for library, of, _, taken in found if of == mode and taken}
            ours, theirs = times.pop("ours"), times.pop(original.NAME, None)
            quick = min(times, key=lambda library: statistics.median(times[library]))
            beside = ratio(times[quick], ours)
            ratios.append(beside.median)
            cells = [name, mode, _ms(ours), f"{_ms(times[quick])} ({quick})", f"{beside:.2f}"]
            if theirs:
                beside = ratio(theirs, ours)
                to_original.append(beside.median)
                cells += [_ms(theirs), f"{beside:.2f}"]
            else:
                cells += ["", ""]
            own = bytes_.pop("ours")
            lean = min(bytes_.values())
            lines.append(row([*cells, f"{own / MIB:.0f}", f"{lean / MIB:.0f}", f"{lean / own:.2f}"]))
    means = [f"**{geometric_mean(values):.2f}**" if values else "" for values in (ratios, to_original)]
    return "\n".join([*lines, row(["geometric mean", "", "", "", means[0], "", means[1], "", "", ""])])


def _ms(rounds: list[float]) -> str:
    return f"{statistics.median(rounds):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--compile", nargs="*", default=COMPILED, metavar="MODEL", help="those also compiled")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 64  # some networks are many blocks of one class
    if options.one:
        [name] = options.models
        print(json.dumps(measure(name, options.batch, options.rounds, name in options.compile)))
        return
    results = {}
    for name in options.models:
        print(f"{name} ...", file=sys.stderr, flush=True)
        batch = min(options.batch, 2) if name == "slow_r50" else options.batch
        arguments = ["--one", "--batch", batch, "--rounds", options.rounds, "--threads", options.threads]
        results[name] = own_process("training", name, *arguments, "--compile", *options.compile)
    batches = f"batch {options.batch}" + (", 2 of slow_r50" if "slow_r50" in results else "")
    print(about(options.threads, batches, "one step", *LEFT_OUT, *original.note()))
    print(table(results))


if __name__ == "__main__":
    main()
