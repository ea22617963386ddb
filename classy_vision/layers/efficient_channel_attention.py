"""Efficient channel attention (Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural
Networks", 2020)."""

from __future__ import annotations

from math import log2

from torch import Tensor, nn


class EfficientChannelAttention(nn.Module):
    """Scales each channel by a gate between 0 and 1 computed from the means of its neighbours.

    Shape: (n, channels, h, w), unchanged.

    Args:
        channels: of the input; more channels are seen with a larger kernel (section 3.2.3, γ = 2, b = 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = int(abs(log2(channels) + 1) / 2)
        size = max(3, size if size % 2 else size + 1)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid()
        return x * gate.transpose(1, 2).unsqueeze(3)
