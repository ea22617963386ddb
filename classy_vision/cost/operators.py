"""How many multiply-adds an operator does: one row per operator.

The convention is that of the papers: the products of convolutions, linear layers, matrix
products and attention count, one multiply-add as 1 MAC. Biases, norms, activations, pooling,
sums and other elementwise work count 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten

Formula = Callable[..., int]
"""The operator's arguments, and its result as ``out_val``, to a number of MACs."""


def _half(flops: Formula) -> Formula:
    """torch counts a multiply-add as two operations."""
    return lambda *args, **kwargs: flops(*args, **kwargs) // 2


def _mv(matrix: Tensor, vector: Tensor, *, out_val: Any) -> int:
    return matrix.numel()


def _addmv(x: Tensor, matrix: Tensor, vector: Tensor, *, out_val: Any, **scales: Any) -> int:
    return matrix.numel()


def _dot(a: Tensor, b: Tensor, *, out_val: Any) -> int:
    return a.numel()


def _addbmm(x: Tensor, a: Tensor, b: Tensor, *, out_val: Any, **scales: Any) -> int:
    return a.numel() * b.shape[-1]


MACS: Mapping[Any, Formula] = {
    **{operator: _half(flops) for operator, flops in flop_registry.items()},
    _aten.mv: _mv,
    _aten.addmv: _addmv,
    _aten.dot: _dot,
    _aten.vdot: _dot,
    _aten.addbmm: _addbmm,
}
