"""Initial weights."""

from __future__ import annotations

from math import prod, sqrt

import torch
from torch import nn

Conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fan_out_normal(model: nn.Module) -> None:
    """Convolutions from N(0, 2 / (kernel positions * channels out)), groups not considered."""
    for module in model.modules():
        if isinstance(module, Conv):
            fan_out = prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=sqrt(2.0 / fan_out))


def kaiming_fan_out(model: nn.Module) -> None:
    """Convolutions as He et al., "Delving Deep into Rectifiers", 2015: normal, fan out, ReLU."""
    for module in model.modules():
        if isinstance(module, Conv):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def bare_linear(
    width_in: int, width_out: int, bias: bool = True, kind: type[nn.Linear] = nn.Linear
) -> nn.Linear:
    """A linear layer with values to be filled in: layers draw their own first, which takes as long again."""
    layer = kind(width_in, width_out, bias, device="meta")
    layer.weight = nn.Parameter(torch.empty(width_out, width_in))
    if bias:
        layer.bias = nn.Parameter(torch.empty(width_out))
    return layer
