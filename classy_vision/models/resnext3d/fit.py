"""Kernels of images as kernels of clips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from classy_vision.weights.fitting import Fitting


def inflate_kernels(native: Mapping[str, Any], own: Mapping[str, Any], fitting: Fitting) -> dict[str, Any]:
    """Inflates kernels of images over time, where the model's are longer.

    Args:
        native: weights by our names.
        own: the model's.
        fitting: what was done is noted there.
    """
    fitted = dict(native)
    for key in native.keys() & own.keys():
        fitted[key] = inflate(native[key], own[key])
        if fitted[key] is not native[key]:
            fitting.note_shape(key, native[key], fitted[key])
    return fitted


def inflate(weight: Any, own: Tensor) -> Any:
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
