"""What ``optimize`` costs beyond the engine that it chooses, in one run.

    python -m benchmarks.engines [MODEL ...] [--rounds 30] [--threads 1]

- Features of the first stage, and two heads at two blocks: against the same engine, by hand, on just those
  layers.
- The time that a call takes beyond the compiled program's own, for a network of a few microseconds.

Contenders take turns; a ratio is of one round: its median, and its quartiles.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.by_hand import by_hand
from benchmarks.heads import MODELS, prefix, with_heads
from benchmarks.tables import about, header, row
from benchmarks.timing import clocked, ratio, take_turns

# -- the table


class Prefix(nn.Module):
    """A trunk up to a block."""

    def __init__(self, model: Any, block: str) -> None:
        super().__init__()
        self.model, self.run = model, prefix(model, block)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def rows(name: str, rounds: int) -> list[str]:
    """Features and heads: milliseconds by hand and of ours, and the ratio."""
    from classy_vision.engines import optimize

    block, blocks = MODELS[name]
    lines = []
    for what in ("features", "two heads"):
        model = with_heads(name, blocks[:2], 0 if what == "features" else 2)
        x = torch.randn(1, *model.input_shape)
        fast = optimize(model, x)
        ours = (
            (lambda f=fast, x=x: f.features(x, [block])) if what == "features" else (lambda f=fast, x=x: f(x))
        )
        ours()
        hand = by_hand(fast.engine, Prefix(model, block) if what == "features" else model, x)
        found = take_turns({"ours": clocked(ours), "by hand": clocked(hand)}, rounds, warmup=3)
        medians = [f"{statistics.median(found[who]):.2f}" for who in ("by hand", "ours")]
        lines.append(row([name, what, fast.engine, *medians, f"{ratio(found['ours'], found['by hand']):.3f}"]))
    return lines


def overhead(engine: str, rounds: int) -> float:
    """Microseconds of a call beyond the compiled program's."""
    from classy_vision.engines import optimize
    from classy_vision.models import build_model

    fast = optimize(build_model("mlp", input_dim=16, hidden_dims=[16], output_dim=4).eval(), engine=engine)
    [compiled] = fast._compiled.values()
    x = torch.randn(1, *fast.input_shape)
    inner = x.numpy() if compiled.takes == "numpy" else x
    calls = {"ours": clocked(lambda: fast(x)), "engine": clocked(lambda: compiled.run(inner))}
    found = take_turns(calls, 100 * rounds, warmup=100)
    return 1e3 * (statistics.median(found["ours"]) - statistics.median(found["engine"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    print(about(options.threads, "batch 1", f"{options.rounds} rounds"))
    with torch.inference_mode():
        print(header("", "", "engine", "by hand, ms", "ours, ms", "ratio", words=3))
        for name in options.models:
            print("\n".join(rows(name, options.rounds)), flush=True)
        print("\n" + header("engine", "microseconds of a call that are not its own"))
        for engine in ("openvino", "onnxruntime", "plain"):
            print(row([engine, f"{overhead(engine, options.rounds):.0f}"]), flush=True)


if __name__ == "__main__":
    main()
