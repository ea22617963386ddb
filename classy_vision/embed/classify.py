"""Classifiers on features that do not change: nearest neighbours, and linear ones for many weight decays.

Axes: n rows, c channels, k classes, g weight decays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

NEIGHBOURS = 20
TEMPERATURE = 0.07
"""As in DINO and DINOv2 (Oquab et al., 2023)."""
CHUNK = 1024
"""Rows whose similarities are in memory at once."""
STEPS = 500
"""Of L-BFGS at most."""


def classify_by_neighbours(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, neighbours: int = NEIGHBOURS
) -> Tensor:
    """Classifies by the nearest rows: each votes for its class, with the weight exp(cosine / 0.07).

    Args:
        train: (n, c).
        labels: (n,), of these.
        test: (m, c).
        classes: k.
        neighbours: how many vote.

    Returns:
        The class of each row of ``test``, (m,).
    """
    train, test = F.normalize(train, dim=1), F.normalize(test, dim=1)
    found = []
    for part in (test[start : start + CHUNK] for start in range(0, len(test), CHUNK)):
        cosines, rows = (part @ train.T).topk(min(neighbours, len(train)), 1)
        votes = torch.zeros(len(part), classes, dtype=part.dtype, device=part.device)
        votes.scatter_add_(1, labels[rows], ((cosines - 1) / TEMPERATURE).exp())
        found.append(votes.argmax(1))
    return torch.cat(found)


def fit_linear(train: Tensor, labels: Tensor, classes: int, decays: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Fits a logistic regression for each weight decay, by L-BFGS.

    Each minimises the mean cross-entropy plus decay / 2 times the sum of squares of its weights, not of its
    biases: that of scikit-learn with C = 1 / (n * decay).

    Args:
        train: (n, c), of similar scales: see ``standardize``.
        labels: (n,).
        classes: k.
        decays: g of them.

    Returns:
        Weights (g, c, k) and biases (g, k) in float64.
    """
    x = train.double()
    weight, bias = x.new_zeros(x.shape[1], classes), x.new_zeros(classes)
    found = {}
    for decay in sorted(decays, reverse=True):  # each begins where the one before has ended
        weight, bias = _descend(x, labels, weight, bias, decay)
        found[decay] = weight, bias
    weights, biases = zip(*(found[decay] for decay in decays))
    return torch.stack(weights), torch.stack(biases)


def _descend(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, decay: float) -> tuple[Tensor, Tensor]:
    weight, bias = (start.clone().requires_grad_() for start in (weight, bias))
    options: Any = {"max_iter": STEPS, "history_size": 50, "tolerance_grad": 1e-6, "tolerance_change": 1e-12}
    optimizer = torch.optim.LBFGS([weight, bias], line_search_fn="strong_wolfe", **options)

    def measure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight + bias, labels) + decay / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]  # of torch
        return loss

    with torch.enable_grad():
        optimizer.step(measure)  # type: ignore[no-untyped-call]  # of torch
    return weight.detach(), bias.detach()


def classify_linearly(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Classifies rows (n, c) by each of several linear classifiers; returns (g, n)."""
    parts = (x[start : start + CHUNK].double() for start in range(0, len(x), CHUNK))
    return torch.cat([(part @ weight + bias[:, None]).argmax(2) for part in parts], 1)


def standardize(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scales columns so that those of ``train`` have mean 0 and deviation 1; constant ones become 0.

    Returns:
        Both, and the means and scales (c,).
    """
    mean, deviation = train.mean(0), train.std(0, unbiased=False)
    scale = torch.where(deviation > 1e-6 * (1 + mean.abs()), 1 / deviation.clamp(min=1e-12), 0.0)
    return (train - mean) * scale, (test - mean) * scale, mean, scale
