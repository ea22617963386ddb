"""What heads cost beyond their own work, in one run.

    python -m benchmarks.heads [--rounds 15] [--threads 1]

- A tap, and a head, at the end of the first stage, against its modules called one after the other.
- 1, 2, 4 and 8 heads on up to four blocks, against the trunk alone plus the heads alone.

Contenders take turns; a ratio is of one round: its median, and its quartiles.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.tables import about, header, row
from benchmarks.timing import clocked, ratio, take_turns
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


def taps(name: str, rounds: int) -> list[str]:
    """The prefix by hand, a tap, and a head: milliseconds and ratios."""
    block = MODELS[name][0]
    model = build_model(name, heads=[]).eval()
    x = torch.randn(1, *model.input_shape)
    headed = build_model(name, heads=[]).eval()
    headed.set_heads({block: [FullyConnectedHead("head", 100)]})
    by_hand = prefix(model, block)
    calls = {"prefix": lambda: by_hand(x), "tap": lambda: model.features(x, [block]), "head": lambda: headed(x)}
    found = take_turns({what: clocked(call) for what, call in calls.items()}, rounds, warmup=2)
    base = found.pop("prefix")
    cells = [f"{statistics.median(base):.1f}"]
    for ms in found.values():
        cells += [f"{statistics.median(ms):.1f}", f"{ratio(ms, base):.2f}"]
    return cells


def many(name: str, number: int, rounds: int) -> str:
    """One pass with ``number`` heads, as a ratio to the trunk and the heads alone."""
    blocks = MODELS[name][1]
    model = with_heads(name, blocks, number)
    x = torch.randn(1, *model.input_shape)
    until = blocks[-1]
    features = model.features(x, list(model.get_heads()))
    trunk = prefix(model, until)

    def heads() -> None:
        for block, entries in model.get_heads().items():
            for head in entries:
                head(features[block])

    calls = {"model": lambda: model(x), "trunk": lambda: trunk(x), "heads": heads}
    found = take_turns({what: clocked(call) for what, call in calls.items()}, rounds, warmup=2)
    alone = [sum(both) for both in zip(found["trunk"], found["heads"])]
    return f"{ratio(found['model'], alone):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(about(options.threads, "batch 1", f"{options.rounds} rounds"))
    with torch.inference_mode():
        print(header("", "block", "prefix by hand, ms", "tap, ms", "ratio", "head, ms", "ratio", words=2))
        for name, (block, _) in MODELS.items():
            print(row([name, block, *taps(name, options.rounds)]), flush=True)
        print("\n" + header("heads", "1", "2", "4", "8"))
        for name in MODELS:
            print(row([name, *(many(name, number, options.rounds) for number in (1, 2, 4, 8))]), flush=True)


if __name__ == "__main__":
    main()
