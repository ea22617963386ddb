"""Whether heads pull a trunk the same way: cosines of the gradients of their losses, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.train.config import TrainConfig
from classy_vision.train.figures import draw_cosines, save_figure
from classy_vision.train.run import Trainer, rehearsing
from classy_vision.trunk.names import END
from classy_vision.weights.state import head_of

BATCHES = 8
"""Batches over which cosines are averaged."""
Pair = tuple[str, str]


@dataclass(frozen=True)
class HeadGradients:
    """How the gradients of heads lie to each other.

    Attributes:
        blocks: those with parameters that learn, in the order in which they run.
        cosines: by pair of heads, one per block; None where one of the two does not depend on it.
    """

    blocks: tuple[str, ...]
    cosines: Mapping[Pair, tuple[float | None, ...]]

    def parting(self, pair: Pair) -> str | None:
        """The last block before the first in which the cosine of a pair is negative; None if that is the first.

        It is the last block that both depend on where no cosine is negative.
        """
        known = [
            (block, cosine) for block, cosine in zip(self.blocks, self.cosines[pair]) if cosine is not None
        ]
        agreeing = next((i for i, (_, cosine) in enumerate(known) if cosine < 0), len(known))
        return known[agreeing - 1][0] if agreeing else None

    def lines(self) -> Iterator[str]:
        """A table, and a sentence per pair."""
        titles = [f"{a}, {b}" for a, b in self.cosines]
        first = max(map(len, ("block", *self.blocks)))
        widths = [max(len(title), 6) for title in titles]
        yield "  ".join(["block".ljust(first), *(t.rjust(w) for t, w in zip(titles, widths))])
        for i, block in enumerate(self.blocks):
            cells = ["-" if row[i] is None else f"{row[i]:+.3f}" for row in self.cosines.values()]
            yield "  ".join([block.ljust(first), *(cell.rjust(w) for cell, w in zip(cells, widths))])
        for pair in self.cosines:
            yield self._describe(pair)

    def _describe(self, pair: Pair) -> str:
        shared = [cosine for cosine in self.cosines[pair] if cosine is not None]
        heads, last = f"heads {pair[0]!r} and {pair[1]!r}", self.parting(pair)
        if not shared:
            return f"{heads} share no block that learns"
        if min(shared) >= 0:
            return f"{heads} agree in all blocks that they share"
        if last is None:
            return (
                f"{heads} part from the first block on: a trunk for each, or loss_weighting: upgrad, may help"
            )
        return f"{heads} part after {last}: a head that reads {last} does not disturb the other one"


def analyse_heads(settings: TrainConfig, plot: Path | None = None) -> HeadGradients:
    """Compares the gradients of heads on a few batches; nothing learns.

    Args:
        settings: the job; ``weights`` says with what weights, which are new ones otherwise.
        plot: a file to draw the cosines into, .png or .svg.

    Raises:
        ConfigError: something does not fit, there is one head only, or the trunk does not learn.
    """
    with rehearsing(settings) as trainer:
        heads = list(trainer.job.tasks)
        if len(heads) < 2:
            raise ConfigError(f"gradients of several heads are compared, and there is one: {heads[0]!r}")
        if trainer.sharded:
            raise ConfigError("gradients of heads are compared on whole parameters: run it on one process")
        blocks = group_by_block(trainer.network)
        if not blocks:
            raise ConfigError("the whole trunk is frozen: there are no gradients to compare")
        sums = {pair: [[0.0, 0] for _ in blocks] for pair in combinations(heads, 2)}
        for gradients in _gradients(trainer, blocks):
            for (a, b), row in sums.items():
                for cell, mine, theirs in zip(row, gradients[heads.index(a)], gradients[heads.index(b)]):
                    if mine is not None and theirs is not None:
                        cell[0] += float(torch.cosine_similarity(mine, theirs, dim=0))
                        cell[1] += 1
    cosines = {pair: tuple(s / n if n else None for s, n in row) for pair, row in sums.items()}
    found = HeadGradients(tuple(blocks), cosines)
    if plot is not None and trainer.accelerator.is_main_process:
        save_figure(draw_cosines(found.blocks, found.cosines), plot)
    return found


def group_by_block(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The parameters of the trunk that learn, by the step that they are in."""
    found: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not head_of(name):
            first, *rest = name.split(".")
            block = rest[0] if first == "blocks" and rest else END if first == "tail" else first
            found.setdefault(block, []).append(parameter)
    return found


def _gradients(
    trainer: Trainer, blocks: Mapping[str, Sequence[nn.Parameter]]
) -> Iterator[list[list[Tensor | None]]]:
    """The gradient of each head's loss in each block, a vector, for some batches; None where there is none."""
    flat = [p for parameters in blocks.values() for p in parameters]
    sizes = [len(parameters) for parameters in blocks.values()]
    for sums, counts in trainer.run_batches(BATCHES):
        found = []
        for loss, count in zip(sums, counts):
            parts: Sequence[Tensor | None] = [None] * len(flat)
            if count and loss.requires_grad:
                parts = torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True)
            rows = iter(parts)
            found.append([_join([next(rows) for _ in range(size)]) for size in sizes])
        yield found


def _join(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part.flatten().float() for part in parts if part is not None]
    return torch.cat(known) if len(known) == len(parts) and any(part.any() for part in known) else None
