"""What training and inference need in memory and time: ours and the peers', in one run.

    python -m benchmarks.memory [--rounds 7] [--threads 1]

DenseNets are held against torchvision's and timm's, and against our own with plain concatenation;
vision transformers against the number of their tokens. Weights are random, shapes are the same.

A peak is what one call needs beyond the model and its input. Gradients of parameters are part of it
for DenseNets, and made beforehand for transformers, where they would hide the rest. Each peak is
measured in a fresh process, behind a call on small images that loads code and kernels, and in two
ways that should agree:

- resident: the high-water mark of the process's resident memory, which is reset before the call,
  less its resident memory before the call. malloc returns freed blocks at once (its thresholds are
  fixed at 64 KiB).
- allocated: the largest sum of blocks that torch's allocator had given out during a second call,
  from its profiler; what kernels allocate themselves does not show there.

Times are medians; contenders take turns, in one process.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.peers import timm, torchvision
from benchmarks.tables import about, header, row
from benchmarks.timing import Run, clocked, medians, own_process
from classy_vision.cost.free_memory import measure_peak as allocated
from classy_vision.models import build_model, densenet

MIB = 2**20
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


@dataclass(frozen=True)
class Case:
    """One thing to measure: a contender, and what it is to do."""

    contender: str
    model: str
    training: bool
    batch: int
    size: int = 224
    with_gradients: bool = True  # of parameters

    def build(self) -> nn.Module:
        return BUILDERS[self.contender](self.model, self.size).train(self.training)

    def run(self, model: nn.Module, size: int | None = None) -> None:
        x = torch.zeros(self.batch, 3, size or self.size, size or self.size)
        if self.training:
            model(x).sum().backward()
            return
        with torch.inference_mode():
            model(x)


class Concatenating(nn.Module):
    """Our DenseNet as it would be without shared storage and without running anything twice."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with patch.multiple(
            densenet,
            append=lambda x, new, room: torch.cat([x, new], 1),
            norm_relu_conv=lambda x, norm, act, conv: conv(act(norm(x))),
        ):
            return self.model(x)


class NaiveAttention(Concatenating):
    """A vision transformer that makes the matrix of all pairs of tokens."""

    def forward(self, x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return self.model(x)


def _ours(name: str, size: int, **options: object) -> nn.Module:
    image = {"image_size": size} if name.startswith("vit") else {}
    return build_model(name, num_classes=1000, **image, **options)


BUILDERS: dict[str, Callable[[str, int], nn.Module]] = {
    "ours": _ours,
    "ours, gradient_checkpointing": lambda name, size: _ours(name, size, gradient_checkpointing=True),
    "ours, concatenating": lambda name, size: Concatenating(_ours(name, size)),
    "ours, naive attention": lambda name, size: NaiveAttention(_ours(name, size)),
    "torchvision": lambda name, size: torchvision.models.get_model(name),
    "torchvision, memory_efficient": lambda name, size: torchvision.models.get_model(
        name, memory_efficient=True
    ),
    "timm": lambda name, size: timm.create_model(name),
}

# -- measuring


@dataclass(frozen=True)
class Peak:
    """Bytes; see above."""

    resident: int
    allocated: int


def peak(case: Case) -> Peak:
    """The peaks of ``case``, measured in a process of its own."""
    arguments = ["--threads", torch.get_num_threads(), "--peak", json.dumps(asdict(case))]
    return Peak(**own_process("memory", *arguments, env=MALLOC))


def peak_here(case: Case) -> Peak:
    """The peaks of ``case`` in this process, which must be a fresh one."""
    model = case.build()

    replace(case, batch=max(case.batch, 2)).run(model, 64)  # a norm in training wants two values
    model.zero_grad(set_to_none=case.with_gradients)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    case.run(model)
    resident = _resident("VmHWM") - before
    model.zero_grad(set_to_none=case.with_gradients)
    return Peak(resident, allocated(lambda: case.run(model), torch.device("cpu")))


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def times(cases: Iterable[Case], rounds: int) -> dict[Case, float]:
    """Median milliseconds of each, taking turns."""

    def run(case: Case) -> Run:
        model = case.build()
        timed = clocked(lambda: case.run(model))

        def once() -> float:
            ms = timed()
            model.zero_grad()
            return ms

        return once

    return medians({case: run(case) for case in cases}, rounds)


# -- tables


def densenets(model: str, training: bool, batch: int, contenders: Iterable[str], rounds: int) -> None:
    """Peak and time of each contender, with ratios to torchvision's."""
    cases = {name: Case(name, model, training, batch) for name in contenders}
    milliseconds = times(cases.values(), rounds)
    print(f"\n{model}, {'training step' if training else 'inference'}, batch {batch}\n")
    print(header("", "resident MiB", "", "allocated MiB", "", "ms", ""))
    base: tuple[float, ...] = ()
    for name, case in cases.items():  # torchvision comes first
        found = peak(case)
        values = (found.resident / MIB, found.allocated / MIB, milliseconds[case])
        base = base or values
        cells = [cell for value, of in zip(values, base) for cell in (f"{value:.0f}", f"{value / of:.2f}")]
        print(row([name, *cells]), flush=True)


def transformers(contender: str, training: bool) -> None:
    """Peak of ViT-B/16 for more and more tokens, and how many times the row before it is."""
    print(f"\nvit_b_16, {contender}, {'training step' if training else 'inference'}, batch 1\n")
    columns = ("tokens", "", "resident MiB", "", "allocated MiB", "", "allocated KiB per token")
    print(header(*columns, words=0))
    last: tuple[float, ...] = ()
    for size in (224, 448, 896):
        found, tokens = peak(Case(contender, "vit_b_16", training, 1, size, False)), (size // 16) ** 2
        values = (tokens, found.resident / MIB, found.allocated / MIB)
        growth = [f"{value / before:.2f}" for value, before in zip(values, last)] or [""] * 3
        cells = [cell for value, more in zip(values, growth) for cell in (f"{value:.0f}", more)]
        print(row([*cells, f"{found.allocated / tokens / 1024:.0f}"]), flush=True)
        last = values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(json.dumps(asdict(peak_here(Case(**options.peak)))))
        return
    print(about(options.threads, "224 px", f"{options.rounds} rounds", "ratios are to torchvision"))
    ours = ["ours", "ours, concatenating"]
    trained = ["torchvision", "torchvision, memory_efficient", *ours, "ours, gradient_checkpointing"]
    densenets("densenet201", True, 8, trained, options.rounds)
    for model in ("densenet121", "densenet201"):
        for batch in (1, 8):
            densenets(model, False, batch, ["torchvision", "timm", *ours], options.rounds)
    transformers("ours", training=False)
    transformers("ours, naive attention", training=False)
    transformers("ours", training=True)
    transformers("ours, gradient_checkpointing", training=True)


if __name__ == "__main__":
    main()
