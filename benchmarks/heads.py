"""What heads cost beyond their own work, in one run.

    python -m benchmarks.heads [--rounds 15] [--threads 1]

- A tap, and a head, at the end of the first stage, against its modules called one after the other.
- 1, 2, 4 and 8 heads on up to four blocks, against the trunk alone plus the heads alone.

Contenders take turns; ratios are of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel, build_model

# The end of the first stage, and four blocks for heads.
MODELS = {
    "resnet50": ("block0", ("block0", "block1", "block2", "block3")),
    "resnext50_32x4d": ("block0", ("block0", "block1", "block2", "block3")),
    "regnet_y_1.6gf": ("block1", ("block1", "block2", "block3", "block4")),
    "densenet121": ("block_0", ("block_0", "block_1", "block_2", "block_3")),
    "efficientnet_b0": ("block1", ("block1", "block2", "block4", "block6")),
    "vit_b_16": ("layer_2", ("layer_2", "layer_5", "layer_8", "layer_11")),
    "r3d_18": ("pathway0-stage1", tuple(f"pathway0-stage{s}" for s in (1, 2, 3, 4))),
}
Run = Callable[[], Any]


def prefix(model: ClassyModel, block: str) -> Callable[[Tensor], Tensor]:
    """The modules up to ``block``, and nothing else."""
    modules = [model.stem]
    for name, module in model.blocks.items():
        modules.append(module)
        if name == model._step(block):
            break

    def run(x: Tensor) -> Tensor:
        for module in modules:
            x = module(x)
        return x

    return run


def with_heads(name: str, blocks: tuple[str, ...], number: int) -> ClassyModel:
    model = build_model(name, heads=[]).eval()
    places = {block: [] for block in blocks[-number:]}
    for i in range(number):
        places[list(places)[i % len(places)]].append(FullyConnectedHead(f"head_{i}", 100))
    model.set_heads(places)
    return model


def measure(runs: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Median milliseconds of each, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for turn in range(rounds + 2):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                if turn >= 2:
                    times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def taps(name: str, rounds: int) -> list[str]:
    """The prefix by hand, a tap, and a head: milliseconds and ratios."""
    block = MODELS[name][0]
    model = build_model(name, heads=[]).eval()
    x = torch.randn(1, *model.input_shape)
    headed = build_model(name, heads=[]).eval()
    headed.set_heads({block: [FullyConnectedHead("head", 100)]})
    by_hand = prefix(model, block)
    found = measure(
        {"prefix": lambda: by_hand(x), "tap": lambda: model.features(x, [block]), "head": lambda: headed(x)},
        rounds,
    )
    base = found["prefix"]
    return [f"{base:.1f}", *(f"{found[k]:.1f} ({found[k] / base:.2f})" for k in ("tap", "head"))]


def many(name: str, number: int, rounds: int) -> str:
    """One pass with ``number`` heads, as a ratio to the trunk and the heads alone."""
    blocks = MODELS[name][1]
    model = with_heads(name, blocks, number)
    x = torch.randn(1, *model.input_shape)
    until = blocks[-1]
    with torch.inference_mode():
        features = model.features(x, list(model.get_heads()))
    trunk = prefix(model, until)

    def heads() -> None:
        for block, entries in model.get_heads().items():
            for head in entries:
                head(features[block])

    found = measure({"model": lambda: model(x), "trunk": lambda: trunk(x), "heads": heads}, rounds)
    return f"{found['model'] / (found['trunk'] + found['heads']):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}; batch 1, {options.threads} thread(s), {options.rounds} rounds\n")
    print("| | block | prefix by hand, ms | tap (ratio) | head (ratio) |\n|---|---|---:|---:|---:|")
    for name, (block, _) in MODELS.items():
        print(f"| {name} | {block} |", " | ".join(taps(name, options.rounds)), "|", flush=True)
    print("\n| heads | 1 | 2 | 4 | 8 |\n|---|---:|---:|---:|---:|")
    for name in MODELS:
        print(f"| {name} |", " | ".join(many(name, n, options.rounds) for n in (1, 2, 4, 8)), "|", flush=True)


if __name__ == "__main__":
    main()
