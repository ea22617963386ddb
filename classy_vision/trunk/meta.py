"""Building and running models as outlines: shapes without numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
    removed = {axis % x.dim() for axis in dim}
    shape = [1 if axis in removed else n for axis, n in enumerate(x.shape) if keepdim or axis not in removed]
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _addmm(x: Tensor, a: Tensor, b: Tensor, **scales: Any) -> Any:
    shape = (a.shape[0], b.shape[1])
    if a.shape[1] != b.shape[0] or x.shape not in (shape, shape[1:]) or not x.dtype == a.dtype == b.dtype:
        return NotImplemented
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _bmm(a: Tensor, b: Tensor) -> Any:
    fits = a.dim() == b.dim() == 3 and a.shape[0] == b.shape[0] and a.shape[2] == b.shape[1]
    if not fits or a.dtype != b.dtype:
        return NotImplemented
    return torch.empty((a.shape[0], a.shape[1], b.shape[2]), dtype=a.dtype, device="meta")


def _softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(x.shape, dtype=dtype or x.dtype, device="meta")


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Any:
    first = tensors[0]
    axis = dim % max(first.dim(), 1)
    rest = [(t.dim(), t.dtype, t.device, *t.shape[:axis], *t.shape[axis + 1 :]) for t in tensors]
    if not first.dim() or any(entry != rest[0] for entry in rest):
        return NotImplemented
    shape = [*first.shape[:axis], sum(t.shape[axis] for t in tensors), *first.shape[axis + 1 :]]
    return torch.empty(shape, dtype=first.dtype, device="meta")


def _window(sizes: Sequence[int], kernel: Sequence[int], *options: Sequence[int]) -> list[int]:
    """Sizes after a window of ``kernel``; options are stride, padding and dilation."""
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in _by_axis(sizes, kernel, *options)]


def _spread(sizes: Sequence[int], kernel: Sequence[int], *options: Sequence[int]) -> list[int]:
    """Sizes before a window; options are stride, padding, dilation and output padding."""
    rows = _by_axis(sizes, kernel, *options)
    return [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, d, o in rows]


def _by_axis(sizes: Sequence[int], *options: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The size and the options of each axis."""
    return zip(sizes, *(list(option) * (len(sizes) // len(option)) for option in options), strict=True)


def _max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil: bool = False,
) -> Any:
    if x.dim() != 4:
        return NotImplemented
    options = (kernel, stride or kernel, padding, dilation)
    sizes = _window(x.shape[2:], *options)
    rows = _by_axis(x.shape[2:], *options)
    if ceil and any((n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in rows):
        return NotImplemented
    if min(sizes) < 1 or any(2 * p > k for p, k in zip(padding, kernel)):
        return NotImplemented
    shape = (*x.shape[:2], *sizes)
    return (
        torch.empty(shape, dtype=x.dtype, device="meta"),
        torch.empty(shape, dtype=torch.int64, device="meta"),
    )


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    inputs, outputs = weight.shape[:2] if transposed else (weight.shape[1] * groups, weight.shape[0])
    fits = x.dim() == weight.dim() and x.dtype == weight.dtype and x.shape[1] == inputs
    if not fits or weight.shape[0] % groups:
        return NotImplemented
    options = (stride, padding, dilation)
    if transposed:
        sizes = _spread(x.shape[2:], weight.shape[2:], *options, output_padding)
        outputs *= groups
    else:
        sizes = _window(x.shape[2:], weight.shape[2:], *options)
    if min(sizes, default=0) < 1:
        return NotImplemented
    return torch.empty((x.shape[0], outputs, *sizes), dtype=x.dtype, device="meta")


def _like(x: Tensor, *, dtype: torch.dtype | None = None, **layout: Any) -> Tensor:
    return torch.empty(x.shape, dtype=dtype or x.dtype, device="meta")


def _resized(x: Tensor, size: Sequence[int], *options: Any) -> Tensor:
    return torch.empty((*x.shape[:2], *size), dtype=x.dtype, device="meta")


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
    _aten._safe_softmax: _softmax,
    _aten.bmm: _bmm,
    _aten.cat: _cat,
    _aten.clamp_: _in_place,
    _aten.convolution: _convolution,
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
    _aten.max_pool2d_with_indices: _max_pool,
    _aten.mean: _mean,
    _aten.native_batch_norm: _normed,
    _aten.native_group_norm: _normed,
    _aten.native_layer_norm: _normed,
    _aten.upsample_bilinear2d: _resized,
    _aten.upsample_nearest2d: _resized,
}


class OnMeta(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not type it
    """A context in which new weights go to the meta device: nothing is allocated or drawn.

    The same as ``torch.device("meta")``, three times as fast on models.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch does not type it

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
        result = shortcut(*args, **options) if shortcut and _on_meta(args[0]) else NotImplemented
        return func(*args, **options) if result is NotImplemented else result


def _on_meta(first: Any) -> bool:
    return (first if isinstance(first, Tensor) else first[0]).is_meta
