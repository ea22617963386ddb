"""Receptive fields: how much of the input one position of a feature sees.

Counted are the windows of convolutions and poolings: after a window of kernel k and dilation d, a
field of r rows whose neighbours are j rows apart has r + d (k - 1) j rows, and with stride s the
neighbours are s j rows apart (Araujo et al., "Computing Receptive Fields of Convolutional Neural
Networks", Distill, 2019). Where branches meet, the largest field counts. Padding is not taken off, so
that a field may be larger than the input.

What mixes all positions sees everything: global pooling, and products of features, such as attention.
A gate that is the same for all positions, such as that of squeeze-and-excitation, does not change the
field, but is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from classy_vision.cost.operators import MACS

_aten = torch.ops.aten


@dataclass(frozen=True)
class Field:
    """What one position of a tensor sees.

    Attributes:
        rows: of the input, along its height; None for all of it.
        step: rows between the fields of neighbours.
        gated: whether a gate that sees all of the input was applied as well.
    """

    rows: int | None = 1
    step: Fraction = Fraction(1)
    gated: bool = False

    def add_window(self, kernel: int, stride: Fraction = Fraction(1), dilation: int = 1) -> Field:
        """Returns the field after a window."""
        rows = None if self.rows is None else self.rows + int(dilation * (kernel - 1) * self.step)
        return replace(self, rows=rows, step=self.step * stride)


ALL = Field(rows=None)


class Fields:
    """The fields of tensors, by identity: what is asked for must be alive."""

    def __init__(self) -> None:
        self._known: dict[int, Field] = {}

    def of(self, tensor: Any) -> Field | None:
        """That of ``tensor``; None where it does not depend on the input."""
        return self._known.get(id(tensor))

    def set(self, tensor: Tensor, field: Field) -> None:
        self._known[id(tensor)] = field

    def follow(
        self, func: Any, inputs: Sequence[Tensor], args: Sequence[Any], results: Iterable[Tensor]
    ) -> None:
        """Notes what the results of ``func`` see."""
        known = [(tensor, field) for tensor in inputs if (field := self.of(tensor)) is not None]
        if not known:
            return
        for result in results:
            self.set(result, _apply(func, known, args, result))


def _apply(func: Any, known: list[tuple[Tensor, Field]], args: Sequence[Any], result: Tensor) -> Field:
    operator, (x, field) = str(func.overloadpacket).removeprefix("aten."), known[0]
    if operator == "convolution":
        return _convolve(field, *args[1:8])
    if func.overloadpacket in MACS:  # a product with a weight leaves positions alone
        return ALL if len({id(tensor) for tensor, _ in known}) > 1 or "attention" in operator else field
    if operator in _POOLS:
        return _pool(field, *args[1:])
    if operator.startswith(_RESIZES):
        return field.add_window(2 if "nearest" not in operator else 1, Fraction(x.shape[-2], result.shape[-2]))
    if operator.startswith("_adaptive") or operator.startswith("adaptive"):
        return _adapt(field, x, result)
    if torch.Tag.reduction in func.tags or operator in _REDUCTIONS:
        return ALL if _mixes_positions(x, _dims(func, args)) else field
    return _join(known, result)


_POOLS = {
    *("avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices"),
}
_RESIZES = ("upsample_", "_upsample_")
_REDUCTIONS = {"mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm"}


def _at_height(sizes: Sequence[int] | int) -> int:
    """The height's entry: the last but one, or the only one, which stands for all."""
    return sizes if isinstance(sizes, int) else sizes[-2] if len(sizes) > 1 else sizes[0]


def _convolve(
    field: Field, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *_: Any
) -> Field:
    if weight.dim() < 4:  # one axis, which is not a height
        return field
    kernel, step, spread = weight.shape[-2], _at_height(stride), _at_height(dilation)
    if transposed:  # of its inputs, a position reads those that stand a stride apart
        return field.add_window(-(-(spread * (kernel - 1) + 1) // step), Fraction(1, step))
    return field.add_window(kernel, Fraction(step), spread)


def _pool(field: Field, kernel: Any, stride: Any = (), padding: Any = (), dilation: Any = 1, *_: Any) -> Field:
    spread = _at_height(dilation) if isinstance(dilation, (list, tuple)) else 1
    return field.add_window(_at_height(kernel), Fraction(_at_height(stride or kernel)), spread)


def _adapt(field: Field, x: Tensor, result: Tensor) -> Field:
    if result.shape[-2] == 1 and x.shape[-2] > 1:
        return ALL
    ratio = Fraction(x.shape[-2], result.shape[-2])
    return field.add_window(-(-x.shape[-2] // result.shape[-2]), ratio)


def _dims(func: Any, args: Sequence[Any]) -> Any:
    """The axes that a reduction was given; for a norm they come after its order."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args))
    return given.get("dim")


def _mixes_positions(x: Tensor, dims: Sequence[int] | int | None) -> bool:
    """Whether a reduction goes over positions: any axis but channels, and those of size 1."""
    if dims is None or dims == []:
        dims = range(x.dim())
    axes = {axis % x.dim() for axis in ([dims] if isinstance(dims, int) else dims)} if x.dim() else set()
    channels = 1 if x.dim() != 3 else 2
    return any(x.shape[axis] > 1 for axis in axes - {0, channels})


def _join(known: list[tuple[Tensor, Field]], result: Tensor) -> Field:
    """The largest field; operands that are the same for all positions are gates."""
    local = [(t, f) for t, f in known if f.rows is not None or not _is_spread(t, result)]
    gated = len(local) < len(known) or any(f.gated for _, f in known)
    fields = [field for _, field in local or known]
    rows = [field.rows for field in fields]
    return Field(
        None if None in rows else max(row for row in rows if row is not None),
        max(field.step for field in fields),
        gated and None not in rows,
    )


def _is_spread(operand: Tensor, result: Tensor) -> bool:
    """Whether ``operand`` has one position where ``result`` has several."""
    return operand.dim() >= 3 and operand.shape[2:].numel() == 1 < result.shape[2:].numel()


def tensors_in(values: Iterable[Any] | Mapping[str, Any]) -> list[Tensor]:
    """The tensors among ``values`` and in the lists among them."""
    found: list[Tensor] = []
    for value in values.values() if isinstance(values, Mapping) else values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found
