"""Kernels of images as kernels of clips."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def inflated(weight: Any, own: Tensor) -> Any:
    """A kernel of length 1 in time as one of ``own``'s length: repeated, and divided by it.

    Anything else is given back as it is. (Carreira & Zisserman, "Quo Vadis, Action Recognition?",
    2017, section 2.3.)
    """
    if not isinstance(weight, Tensor) or weight.dim() != 5 or weight.shape[2] != 1:
        return weight
    length = own.shape[2] if own.dim() == 5 else 1
    if length == 1 or weight.shape[:2] + weight.shape[3:] != own.shape[:2] + own.shape[3:]:
        return weight
    return weight.repeat(1, 1, length, 1, 1) / length
