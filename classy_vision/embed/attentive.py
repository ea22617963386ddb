"""Attentive probes: an attention pool and a linear classifier on tokens, for several learning rates at once.

The tokens are read from disk a batch at a time, and are never all in memory.

Axes: n rows, s tokens, c channels, k classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.heads.attention_pool_head import AttentionPoolHead

EPOCHS, STEPS = 20, 1000
"""Epochs, and more of them where there would be fewer steps."""
BATCH, DECAY = 64, 0.05
WARMUP = 0.05
"""The part of the steps in which rates rise."""

Read = Callable[[Tensor], Tensor]
"""Gives the tokens (n, s, c) of rows (n,)."""


def fit_attentive(
    read: Read, rows: Tensor, labels: Tensor, classes: int, rates: Sequence[float]
) -> list[AttentionPoolHead]:
    """Trains an attention pool with a linear classifier for each learning rate.

    The optimizer is AdamW with a cosine schedule. Tokens are standardized by channel, which is made part of the
    weights in the end: the heads take tokens as they are. All of them begin with the same weights and see the
    same batches.

    Args:
        read: gives tokens.
        rows: (n,), to train on.
        labels: (n,), of these.
        classes: k.
        rates: learning rates.
    """
    mean, scale = _standardize(read, rows)
    heads = _make_heads(len(mean), classes, len(rates)).to(mean.device)
    options: Any = [{"params": head.parameters(), "lr": rate} for head, rate in zip(heads, rates)]
    optimizer = torch.optim.AdamW(options, weight_decay=DECAY)
    batches = -(-len(rows) // BATCH)
    epochs = max(EPOCHS, STEPS // batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _find_factor(step, epochs * batches))
    draw = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for part in cut(torch.randperm(len(rows), generator=draw), BATCH):
            x, wanted = (read(rows[part]) - mean) * scale, labels[part].to(mean.device)
            loss = torch.stack([F.cross_entropy(head(x), wanted) for head in heads]).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # of torch
            optimizer.step()
            schedule.step()
    return [_take_in(head.eval(), mean, scale) for head in heads]  # type: ignore[arg-type]  # of a ModuleList


def measure_attentive(
    heads: Sequence[AttentionPoolHead], read: Read, rows: Tensor, labels: Tensor
) -> list[float]:
    """Measures the accuracy of each head on rows (n,) with labels (n,)."""
    right = torch.zeros(len(heads), dtype=torch.long)
    with torch.inference_mode():
        for part in cut(torch.arange(len(rows)), BATCH):
            x = read(rows[part])
            right += torch.stack([(head(x).argmax(1).cpu() == labels[part]).sum() for head in heads])
    found: list[float] = (right.double() / len(rows)).tolist()
    return found


def cut(rows: Tensor, size: int) -> list[Tensor]:
    """Cuts rows (n,) into batches."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _make_heads(channels: int, classes: int, count: int) -> nn.ModuleList:
    """Makes heads with equal weights, which do not depend on what was drawn before."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = AttentionPoolHead("attentive", classes, channels)
        for name, x in head.named_parameters():  # a deviation of 0.02 would be too small for narrow blocks
            if name.endswith("weight") and x.dim() == 2:
                nn.init.trunc_normal_(x, std=x.shape[1] ** -0.5)
    return nn.ModuleList(deepcopy(head) for _ in range(count))


def _find_factor(step: int, steps: int) -> float:
    rise = (step + 1) / max(1, WARMUP * steps)
    return min(1.0, rise) * (1 + math.cos(math.pi * step / steps)) / 2


def _standardize(read: Read, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Finds the means (c,) of channels over rows and tokens, and the factors that make their deviations 1."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for part in cut(rows, BATCH):
        x = read(part).flatten(0, 1).double()
        count, total, squares = count + len(x), x.sum(0) + total.to(x), x.square().sum(0) + squares.to(x)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    scale = torch.where(deviation > 1e-6 * (1 + mean.abs()), 1 / deviation.clamp(min=1e-12), 0.0)
    return mean.float(), scale.float()


@torch.no_grad()
def _take_in(head: AttentionPoolHead, mean: Tensor, scale: Tensor) -> AttentionPoolHead:
    """Lets a head that was trained on standardized tokens take them as they are."""
    pool, width = head.pool, len(mean)
    weight = pool.in_proj_weight[width:] * scale  # of keys and values
    pool.in_proj_bias[width:] -= weight @ mean
    pool.in_proj_weight[width:] = weight
    return head
