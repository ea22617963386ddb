"""Building and running models as outlines: shapes without numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

FACTORIES = frozenset({_aten.empty, _aten.zeros, _aten.ones, _aten.full, _aten.rand, _aten.randn})
"""Operators that make weights; ``arange`` and ``linspace``, which make numbers, stay as they are."""

# -- shapes of results; NotImplemented leaves the answer, or the complaint, to torch


def outline(x: Tensor) -> Tensor:
    """A tensor of the shape and type of ``x`` on the meta device."""
    return torch.empty(x.shape, dtype=x.dtype, device="meta")


def _elementwise(x: Tensor, *others: Any, **scales: Any) -> Any:
    tensors = [x, *(other for other in others if isinstance(other, Tensor))]
    if not x.is_floating_point() or any(tensor.dtype != x.dtype for tensor in tensors):
        return NotImplemented
    axes = [{*sizes} - {1} for sizes in zip_longest(*(t.shape[::-1] for t in tensors), fillvalue=1)]
    if any(len(sizes) > 1 for sizes in axes):
        return NotImplemented
    return torch.empty([max(sizes, default=1) for sizes in reversed(axes)], dtype=x.dtype, device="meta")


def _in_place(x: Tensor, *others: Any, **scales: Any) -> Any:
    result = _elementwise(x, *others)
    return x if result is not NotImplemented and result.shape == x.shape else NotImplemented


def _mean(x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, **options: Any) -> Any:
    if not dim or options:
        return NotImplemented
    gone = {axis % x.dim() for axis in dim}
    shape = [1 if axis in gone else n for axis, n in enumerate(x.shape) if keepdim or axis not in gone]
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _addmm(x: Tensor, a: Tensor, b: Tensor, **scales: Any) -> Any:
    shape = (a.shape[0], b.shape[1])
    if a.shape[1] != b.shape[0] or x.shape not in (shape, shape[1:]) or not x.dtype == a.dtype == b.dtype:
        return NotImplemented
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _like(x: Tensor, *, dtype: torch.dtype | None = None, **layout: Any) -> Tensor:
    return torch.empty(x.shape, dtype=dtype or x.dtype, device="meta")


def _normed(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    return outline(x), _STATISTICS, _STATISTICS


_STATISTICS = torch.empty(0, device="meta")

# torch's own answers to these are Python programs of a millisecond or more each, and the first of
# them imports the compiler: ten seconds for all presets.
SHORTCUTS: Mapping[Any, Callable[..., Any]] = {
    _aten.add: _elementwise,
    _aten.gelu: _elementwise,
    _aten.mul: _elementwise,
    _aten.relu: _elementwise,
    _aten.sigmoid: _elementwise,
    _aten.silu: _elementwise,
    _aten.add_: _in_place,
    _aten.clamp_: _in_place,
    _aten.erfinv_: _in_place,
    _aten.fill_: _in_place,
    _aten.mul_: _in_place,
    _aten.normal_: _in_place,
    _aten.relu_: _in_place,
    _aten.sigmoid_: _in_place,
    _aten.silu_: _in_place,
    _aten.uniform_: _in_place,
    _aten.zero_: _in_place,
    _aten.addmm: _addmm,
    _aten.empty_like: _like,
    _aten.mean: _mean,
    _aten.native_batch_norm: _normed,
    _aten.native_layer_norm: _normed,
}


class OnMeta(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which new weights go to the meta device: nothing is allocated or drawn.

    The same as ``torch.device("meta")``, three times as fast on models.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, torch's default, imports the compiler: a second

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        operator, options = func.overloadpacket, dict(kwargs or {})
        if operator in FACTORIES:
            return func(*args, **{**options, "device": "meta"})
        shortcut = SHORTCUTS.get(operator)
        result = shortcut(*args, **options) if shortcut and args[0].is_meta else NotImplemented
        return func(*args, **options) if result is NotImplemented else result
