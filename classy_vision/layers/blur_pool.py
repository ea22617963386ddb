"""Pooling that does not alias (Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class BlurPool2d(nn.Module):
    """A binomial filter of 3x3 with reflected borders, and every second position.

    Shape: (n, channels, h, w) to (n, channels, ceil(h / 2), ceil(w / 2)).
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        kernel = (line[:, None] * line).expand(channels, 1, 3, 3).contiguous()
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.kernel, stride=2, groups=x.shape[1])
