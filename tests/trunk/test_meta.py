"""The shortcuts give what torch gives on the meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from classy_vision.trunk.meta import FACTORIES, SHORTCUTS, OnMeta

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool = False,
    groups: int = 1,
) -> tuple[Any, ...]:
    return x, weight, bias, stride, padding, dilation, transposed, [0] * len(stride), groups


X = (2, 3, 4, 5)
UNARY = [(operator, (meta(*X),)) for operator in (aten.gelu, aten.relu, aten.sigmoid, aten.silu, aten.relu_)]
UNARY += [(operator, (meta(*X),)) for operator in (aten.erfinv_, aten.normal_, aten.sigmoid_, aten.silu_)]
UNARY += [(operator, (meta(*X),)) for operator in (aten.uniform_, aten.zero_, aten.empty_like)]
CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    *UNARY,
    (aten.add, (meta(*X), meta(3, 1, 5))),
    (aten.add, (meta(3, 1, 5), meta(*X))),
    (aten.add, (meta(*X), 2.0)),
    (aten.add, (meta(*X), meta(*X, dtype=torch.float64))),
    (aten.mul, (meta(*X), meta(2, 3, 1, 1))),
    (aten.mul, (meta(4, dtype=torch.int64), 2.5)),
    (aten.mul, (meta(), meta(0, 4))),
    (aten.sigmoid, (meta(4, dtype=torch.int64),)),
    (aten.add_, (meta(*X), meta(3, 1, 5))),
    (aten.mul_, (meta(*X), 2)),
    (aten.clamp_, (meta(*X), 0.0, 1.0)),
    (aten.fill_, (meta(*X), 1.0)),
    (aten.max_pool2d_with_indices, (meta(2, 3, 9, 8), [3, 2], [2, 2], [1, 1])),
    (aten.max_pool2d_with_indices, (meta(2, 3, 9, 8), [3, 3])),
    (aten.max_pool2d_with_indices, (meta(2, 3, 9, 8), [3, 3], [2, 2], [0, 0], [1, 1], True)),
    (aten.max_pool2d_with_indices, (meta(3, 9, 8), [3, 3], [2, 2])),
    (aten.mean, (meta(*X),)),
    (aten.mean, (meta(*X), [2, -1])),
    (aten.mean, (meta(*X), [1], True)),
    (aten._safe_softmax, (meta(*X), -1)),
    (aten._safe_softmax, (meta(*X), 1, torch.float64)),
    (aten.bmm, (meta(2, 3, 4), meta(2, 4, 5))),
    (aten.cat, ([meta(*X), meta(2, 1, 4, 5)], 1)),
    (aten.cat, ([meta(*X), meta(*X)], -1)),
    (aten.cat, ([meta(3), meta(0), meta(2, dtype=torch.int64)],)),
    (aten.convolution, conv(meta(2, 6, 9, 8), meta(4, 3, 3, 1), meta(4), [2, 1], [1, 0], [2, 1], groups=2)),
    (aten.convolution, conv(meta(2, 3, 5, 9, 8), meta(4, 3, 1, 3, 3), None, [1], [0], [1])),
    (aten.convolution, conv(meta(2, 3, 9), meta(4, 3, 3), None, [2], [1], [1])),
    (aten.convolution, conv(meta(2, 4, 9, 8), meta(4, 3, 3, 3), None, [2, 2], [1, 1], [1, 1], transposed=True)),
    (aten.convolution, conv(meta(2, 4, 9, 8), meta(4, 3, 3, 2), None, [3, 2], [1, 0], [1, 2], True, 2)),
    (aten.max_pool2d_with_indices, (meta(2, 3, 9, 8), [2, 2], [2, 2], [0, 0], [1, 1], True)),
    (aten.native_group_norm, (meta(*X), meta(3), meta(3), 2, 3, 20, 3, 1e-5)),
    (aten.upsample_bilinear2d, (meta(*X), [7, 9], False)),
    (aten.upsample_nearest2d, (meta(*X), [8, 10], 2.0, 2.0)),
    (aten.addmm, (meta(5), meta(3, 4), meta(4, 5))),
    (aten.addmm, (meta(3, 5), meta(3, 4), meta(4, 5))),
    (aten.native_batch_norm, (meta(*X), meta(3), meta(3), meta(3), meta(3), False, 0.1, 1e-5)),
    (aten.native_layer_norm, (meta(*X), [5], meta(5), meta(5), 1e-5)),
]
REFUSED: list[tuple[Any, tuple[Any, ...]]] = [
    (aten.add, (meta(2, 3), meta(2, 4))),
    (aten.add_, (meta(3, 1), meta(3, 4))),
    (aten.mul, (meta(2, 0), meta(2, 3))),
    (aten.addmm, (meta(5), meta(3, 4), meta(3, 5))),
    (aten.bmm, (meta(2, 3, 4), meta(2, 3, 4))),
    (aten.max_pool2d_with_indices, (meta(2, 3, 9, 8), [3, 3], [2, 2], [2, 2])),
    (aten.max_pool2d_with_indices, (meta(2, 3, 2, 2), [3, 3], [2, 2])),
    (aten.cat, ([meta(2, 3), meta(2, 4)],)),
    (aten.convolution, conv(meta(1, 3, 2, 2), meta(4, 3, 3, 3), None, [1, 1], [0, 0], [1, 1])),
    (aten.convolution, conv(meta(1, 4, 9, 9), meta(4, 3, 3, 3), None, [1, 1], [0, 0], [1, 1])),
]


def first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def test_all_shortcuts_are_tried() -> None:
    assert SHORTCUTS.keys() == {operator for operator, _ in CALLS}


@pytest.mark.parametrize(("operator", "args"), CALLS, ids=lambda value: str(value)[:30])
def test_shortcut(operator: Any, args: tuple[Any, ...]) -> None:
    with OnMeta():
        given = first(operator(*args))
    wanted = first(operator(*args))
    assert (given.shape, given.dtype, given.device) == (wanted.shape, wanted.dtype, wanted.device)
    assert (given is args[0]) == (wanted is args[0])


@pytest.mark.parametrize(("operator", "args"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_torch_refuses_is_refused(operator: Any, args: tuple[Any, ...]) -> None:
    with OnMeta(), pytest.raises(RuntimeError):
        operator(*args)


def test_numbers_stay_numbers() -> None:
    with OnMeta():
        assert torch.linspace(0, 1, 3).tolist() == [0.0, 0.5, 1.0]
        assert torch.tensor([1.0, 2.0]).mul_(2).tolist() == [2.0, 4.0]
        assert torch.rand(3).is_meta
    assert aten.empty in FACTORIES
