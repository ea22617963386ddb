"""What an operator does: one row per operator, and a list of those that do nothing that counts.

MACs follow the convention of the papers: the products of convolutions, linear layers, matrix
products and attention count, one multiply-add as 1 MAC. Biases, norms, activations, pooling, sums
and other elementwise work count 0.

Activations are what the same operators give: the sizes of the outputs of all convolutions
(Radosavovic et al., "Designing Network Design Spaces", 2020, section 3.2), linear layers and matrix
products; attention gives its scores and its output.

An operator that is in neither list is unknown: it is named, not taken for free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten

Formula = Callable[..., int]
"""The operator's arguments, and its result as ``out_val``, to a number."""


def _half(flops: Formula) -> Formula:
    """torch counts a multiply-add as two operations."""
    return lambda *args, **kwargs: flops(*args, **kwargs) // 2


MACS: Mapping[Any, Formula] = {
    **{operator: _half(flops) for operator, flops in flop_registry.items()},
    _aten.mv: lambda matrix, *_, **__: matrix.numel(),
    _aten.addmv: lambda x, matrix, *_, **__: matrix.numel(),
    _aten.dot: lambda a, *_, **__: a.numel(),
    _aten.vdot: lambda a, *_, **__: a.numel(),
    _aten.addbmm: lambda x, a, b, **_: a.numel() * b.shape[-1],
}

_FREE = {
    "makes": "empty zeros ones full arange linspace eye scalar_tensor lift_fresh tril triu empty_strided "
    "empty_like zeros_like ones_like full_like new_empty new_zeros new_ones new_full new_empty_strided",
    "draws": "rand randn rand_like randn_like randperm bernoulli bernoulli_ uniform_ normal_ native_dropout",
    "moves": "clone copy_ _to_copy contiguous cat stack repeat flip roll unfold im2col col2im embedding "
    "index index_put index_put_ index_select masked_select nonzero gather scatter scatter_add sort topk "
    "slice_scatter select_scatter pixel_shuffle pixel_unshuffle channel_shuffle constant_pad_nd "
    "grid_sampler_2d grid_sampler_3d _unsafe_view _reshape_copy _reshape_alias resize_ set_",
    "norms": "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training "
    "cudnn_batch_norm native_layer_norm native_group_norm _fused_rms_norm linalg_vector_norm "
    "_softmax _safe_softmax _log_softmax",
    "pools": "avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices "
    "adaptive_max_pool2d adaptive_max_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d",
    "sums": "var var_mean std std_mean cumsum cumprod",
    "activations": "hardswish_",  # which torch does not call elementwise, as it does hardswish
}
FREE = frozenset(f"aten.{name}" for names in _FREE.values() for name in names.split())
"""Operators without products, besides those that torch itself calls elementwise, reductions or views."""
_FREE_KINDS = {torch.Tag.pointwise, torch.Tag.reduction}


def is_known(func: Any) -> bool:
    """Whether it is known what the operator ``func`` does: it has a row, or does nothing that counts."""
    operator, name = func.overloadpacket, str(func.overloadpacket)
    if operator in MACS or name in FREE:
        return True
    if func.namespace not in ("aten", "prims"):  # others' tags and views are others' word
        return False
    return func.is_view or bool(_FREE_KINDS & {*func.tags}) or name.startswith(_FREE_NAMES)


_FREE_NAMES = ("aten.upsample_", "aten._upsample_", "aten.reflection_pad", "aten.replication_pad")


def activations(func: Any, args: tuple[Any, ...], result: Any) -> int:
    """The numbers that ``func`` gives, where they count."""
    if func.overloadpacket not in MACS:
        return 0
    output: Tensor = result[0] if isinstance(result, (list, tuple)) else result
    return output.numel() + (_scores(*args[:2]) if "attention" in str(func) else 0)


def _scores(query: Tensor, key: Tensor) -> int:
    return query.numel() // query.shape[-1] * key.shape[-2]
