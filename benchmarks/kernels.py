"""Which kernels the time goes to, and how far the arithmetic is from what the processor can do.

    python -m benchmarks.kernels [MODEL ...] [--batch 4] [--rounds 3] [--threads 1]

A forward pass of the optimized model, of the model as torch runs it, and a training step with channels last of
ours and of one peer, under torch's profiler, which does not see into other engines. Convolutions and products
are oneDNN's and MKL's own loops: their share is what no library above them can change. The limit is the time
that a product of two 2048² matrices would take for as many operations; a training step has three times those
of a forward pass.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.models import DTYPES, LEFT_OUT, MODELS, images, models, training_step
from benchmarks.tables import about, header, row
from benchmarks.timing import clocked, medians

KINDS: Mapping[str, tuple[str, ...]] = {
    "convolutions": ("convolution", "conv2d", "conv3d", "conv_"),
    "products": ("mm", "linear", "attention"),
    "norms": ("norm",),
    "activations": ("relu", "silu", "gelu", "threshold", "sigmoid", "softmax", "clamp", "maximum"),
    "elementwise, pooling": ("aten::add", "aten::mul", "aten::div", "aten::sum", "aten::mean", "pool"),
    "copies": ("copy", "cat", "fill", "zero", "clone", "contiguous"),
    "optimizer": ("sgd",),
}
"""What is in the names of operators; the first that fits counts."""
REST = "rest"


def kind(operator: str) -> str:
    name = operator.lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)


def shares(call: Callable[[], object]) -> dict[str, float]:
    """The share of each kind, under the profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    found: Counter[str] = Counter()
    for event in profiler.key_averages():
        found[kind(event.key)] += event.self_cpu_time_total
    total = sum(found.values())
    return {kind: found[kind] / total for kind in (*KINDS, REST)}


def limits() -> dict[str, float]:
    """Operations in a millisecond of the product of two 2048² matrices, by type."""
    found = {}
    for short, dtype in DTYPES.items():
        a = torch.randn(2048, 2048).to(dtype)
        found[short] = 2 * 2048**3 / min(clocked(lambda a=a: torch.mm(a, a))() for _ in range(7))
    return found


def rows(name: str, batch: int, rounds: int, peaks: Mapping[str, float]) -> list[str]:
    """Of one model, the lines of the table."""
    from classy_vision.cost import count
    from classy_vision.engines import optimize

    x = images(name, batch)
    every = dict(models(name))
    ours = every.pop("ours")
    operations = 2 * batch * count(ours, tuple(x.shape[1:])).macs
    calls: dict[str, tuple[float, Callable[[], object]]] = {}
    for short, dtype in DTYPES.items():
        limit = operations / peaks[short]
        for engine in ("auto", "plain"):
            fast = optimize(ours, x, engine=engine, dtype=dtype, tolerance=0.1)
            calls[f"ours, {fast.engine} {short}"] = limit, partial(fast, x)
    target = torch.randint(400 if name == "slow_r50" else 1000, (batch,))
    for library, model in (("ours", ours), *list(every.items())[:1]):
        step = training_step(copy.deepcopy(model), "channels last", x, target)
        calls[f"{library}, training step"] = 3 * operations / peaks["fp32"], step
    found = medians({what: clocked(call) for what, (_, call) in calls.items()}, rounds)
    lines = []
    for what, (limit, call) in calls.items():
        seen = shares(call)
        words = [f"{value:.0%}" if seen[REST] < 0.9 else "" for value in seen.values()]
        lines.append(row([name, what, f"{found[what]:.0f}", f"{limit / found[what]:.0%}", *words]))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    peaks = limits()
    print(about(options.threads, f"batch {options.batch}", *LEFT_OUT))
    print(header("", "", "ms", "of the limit", *KINDS, REST, words=2))
    for name in options.models:
        print("\n".join(rows(name, options.batch, options.rounds, peaks)), flush=True)


if __name__ == "__main__":
    main()
