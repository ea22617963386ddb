"""What a training step takes in time and memory: ours, timm's and torchvision's, in one run.

    python -m benchmarks.training [MODEL ...] [--batch 8] [--rounds 5] [--threads 1]

A step is the forward pass, the cross entropy, the backward pass and fused SGD with momentum. All have
the same weights and take turns. The memory is the largest sum of blocks that torch's allocator had
given out during a step, from its profiler, beyond model, gradients and momentum. Each model has a
process of its own.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.inference import CLIP, MODELS, models
from classy_vision.cost.room import peak

MODES = ("plain", "channels last", "channels last, bf16")
MIB = 2**20


def steps(name: str, batch: int) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """(library, mode, one step)."""
    shape, classes = (CLIP, 400) if name == "slow_r50" else ((3, 224, 224), 1000)
    x = torch.randn(batch, *shape)
    target = torch.randint(classes, (batch,))
    for library, model in models(name):
        for mode in MODES:
            yield library, mode, _step(copy.deepcopy(model), mode, x, target)


def _step(model: nn.Module, mode: str, x: Tensor, target: Tensor) -> Callable[[], None]:
    layout = torch.contiguous_format if mode == "plain" else _last(x)
    model, x = model.train().to(memory_format=layout), x.to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=mode.endswith("bf16")):
            loss = F.cross_entropy(model(x).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def _last(x: Tensor) -> torch.memory_format:
    return torch.channels_last_3d if x.dim() == 5 else torch.channels_last


def measure(name: str, batch: int, rounds: int) -> list[tuple[str, str, float, int]]:
    """(library, mode, median milliseconds, bytes)."""
    found = list(steps(name, batch))
    times: list[list[float]] = [[] for _ in found]
    for turn in range(rounds + 1):
        for i, (_, _, step) in enumerate(found):
            start = time.perf_counter()
            step()
            if turn:
                times[i].append(1e3 * (time.perf_counter() - start))
    return [(*row[:2], statistics.median(t), peak(row[2], torch.device("cpu"))) for row, t in zip(found, times)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(options.models[0], options.batch, options.rounds)))
        return
    print(f"torch {torch.__version__}; {options.threads} thread(s), batch {options.batch}, one step")
    print("\n| | mode | ours, ms | fastest peer, ms | ratio | ours, MiB | leanest peer, MiB | ratio |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    ratios = []
    for name in options.models:
        command = [sys.executable, "-m", "benchmarks.training", name, "--one", "--rounds", str(options.rounds)]
        command += ["--batch", str(2 if name == "slow_r50" else options.batch)]
        command += ["--threads", str(options.threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows = json.loads(done.stdout.splitlines()[-1])
        for mode in MODES:
            [ours] = [row for row in rows if row[:2] == ["ours", mode]]
            theirs = [row for row in rows if row[0] != "ours" and row[1] == mode]
            quick = min(theirs, key=lambda row: row[2])
            lean = min(row[3] for row in theirs)
            ratios.append(quick[2] / ours[2])
            print(
                f"| {name} | {mode} | {ours[2]:.0f} | {quick[2]:.0f} ({quick[0]}) | {quick[2] / ours[2]:.2f} "
                f"| {ours[3] / MIB:.0f} | {lean / MIB:.0f} | {lean / ours[3]:.2f} |",
                flush=True,
            )
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    print(f"| geometric mean | | | | **{mean:.2f}** | | | |")


if __name__ == "__main__":
    main()
