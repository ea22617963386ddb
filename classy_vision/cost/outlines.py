"""Shapes of results in training, where torch's own meta kernels are missing or import its compiler.

They add to ``classy_vision.trunk.meta.SHORTCUTS``, which leave out what inference does not need. All other
operators are left to torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from classy_vision.trunk.meta import outline

_aten = torch.ops.aten


def _make_stats(shape: Sequence[int], like: Tensor) -> Tensor:
    """Statistics: in 32 bits or more."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.empty(shape, dtype=dtype, device="meta")


def _batch_norm(x: Tensor, gain: Any, shift: Any, mean: Any, var: Any, training: bool, *_: Any) -> Any:
    shape = (x.shape[1] if training else 0,)
    return outline(x), _make_stats(shape, x), _make_stats(shape, x)


def _layer_norm(x: Tensor, shape: Sequence[int], *_: Any) -> Any:
    kept = (*x.shape[: x.dim() - len(shape)], *(1 for _ in shape))
    return outline(x), _make_stats(kept, x), _make_stats(kept, x)


def _batch_norm_backward(gradient: Tensor, x: Tensor, gain: Tensor | None, *rest: Any) -> Any:
    wanted: Sequence[bool] = rest[-1]
    of_gain = torch.empty(x.shape[1], dtype=x.dtype if gain is None else gain.dtype, device="meta")
    return _outline_wanted(wanted, x, of_gain, of_gain)


def _layer_norm_backward(gradient: Tensor, x: Tensor, shape: Any, mean: Any, rstd: Any, *affine: Any) -> Any:
    *like, wanted = affine
    return _outline_wanted(wanted, x, *like)


def _outline_wanted(wanted: Sequence[bool], *like: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(outline(x) if want and x is not None else None for want, x in zip(wanted, like))


def _elementwise(x: Tensor, *_: Any, grad_input: Tensor | None = None, **options: Any) -> Tensor:
    return outline(x) if grad_input is None else grad_input


def _scale(x: Tensor, other: Any, **options: Any) -> Any:
    return outline(x) if x.is_floating_point() and not isinstance(other, Tensor) else NotImplemented


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **options: Any) -> tuple[Tensor, Tensor]:
    return torch.empty((*q.shape[:3], v.shape[3]), dtype=q.dtype, device="meta"), _make_stats(q.shape[:3], q)


def _moments(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _make_stats((x.shape[1],), x), _make_stats((x.shape[1],), x)


TRAINING: Mapping[Any, Callable[..., Any]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten.batch_norm_update_stats: _moments,
    _aten.div: _scale,
    _aten.native_batch_norm: _batch_norm,
    _aten.native_batch_norm_backward: _batch_norm_backward,
    _aten.native_layer_norm: _layer_norm,
    _aten.native_layer_norm_backward: _layer_norm_backward,
    **{getattr(_aten, f"{name}_backward"): _elementwise for name in ("gelu", "sigmoid", "silu", "threshold")},
    _aten.rsqrt: _elementwise,
}


class FusedAttention(TorchFunctionMode):
    """Attention as a CPU or GPU does it, without a tensor of its scores; torch writes it out on meta.

    Args:
        device: "cpu" or "cuda". The kernel of the former has no dropout.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func is F.scaled_dot_product_attention and self._is_fused(args, options):
            return _aten._scaled_dot_product_flash_attention_for_cpu(*args)[0]
        return func(*args, **options)

    def _is_fused(self, args: Sequence[Any], options: Mapping[str, Any]) -> bool:
        dropout = options.get("dropout_p", 0.0)
        plain = {*options} <= {"dropout_p"} and len(args) == 3 and all(x.dim() == 4 for x in args)
        return plain and (self.device == "cuda" or not dropout)
