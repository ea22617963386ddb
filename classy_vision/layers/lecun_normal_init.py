"""LeCun-normal initialisation, truncated, as the vision transformer uses it."""

from __future__ import annotations

from math import sqrt

from torch import Tensor, nn


def lecun_normal_init(tensor: Tensor, fan_in: int) -> None:
    """Fills ``tensor`` from a normal distribution of std ``sqrt(1 / fan_in)``, cut at -2 and 2."""
    nn.init.trunc_normal_(tensor, std=sqrt(1.0 / fan_in))
