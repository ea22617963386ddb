"""Stochastic depth (Huang et al., "Deep Networks with Stochastic Depth", 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """In training, zeroes the residual branch of a random part of the samples.

    Samples that are kept are scaled up, so that the expectation is unchanged.

    Shape: (n, ...), unchanged.

    Args:
        rate: the probability that a sample is dropped, 0 up to (not including) 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = torch.empty((x.shape[0],) + (1,) * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return x * (mask.bernoulli_(keep) / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def depth_rates(rate: float, depth: int) -> list[float]:
    """The rate of each of ``depth`` blocks: 0 for the first, rising linearly to ``rate`` for the last.

    As timm has it for ResNets, RegNets and vision transformers. A single block, which is the last,
    has ``rate``.
    """
    return [rate * index / (depth - 1) for index in range(depth)] if depth > 1 else [rate] * depth


def efficientnet_rates(rate: float, depth: int) -> list[float]:
    """The rate of each of ``depth`` blocks: ``rate`` times the part of the blocks that come before it.

    As the original, timm and torchvision have it for EfficientNets, so the last block has a little
    less than ``rate``.
    """
    return [rate * index / depth for index in range(depth)]
