"""Batch norm, ReLU and convolution that keep nothing but their input: norm and ReLU run again in the
backward pass (Pleiss et al., "Memory-Efficient Implementation of DenseNets", 2017, section 3).

Axes: n batch, c channels, d output channels, h height, w width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.module import _has_any_global_hook

from classy_vision.layers.eager import device_of, is_eager, needs_gradient
from classy_vision.models.densenet.storage import (
    MEASURED,
    as_batch,
    as_image,
    is_channel_major,
    is_shared,
    moments,
)

_aten = torch.ops.aten


def norm_relu_conv(x: Tensor, norm: nn.BatchNorm2d, act: nn.Module, conv: nn.Conv2d) -> Tensor:
    """``conv(act(norm(x)))``, of which only ``x`` is kept for the backward pass.

    Modules of other kinds, such as a synchronised norm, and those with hooks or under a tracer are
    called one by one.

    Shape: (n, c, h, w) to (n, d, h', w').

    Args:
        x: in any layout; quickest in that of ``append``.
        norm: with gain, shift and running statistics.
        act: an ``nn.ReLU``.
        conv: of stride 1, without dilation, groups and bias.
    """
    if not is_eager(x) or x.dim() != 4 or not (torch.is_grad_enabled() or is_shared(x)):
        return conv(act(norm(x)))  # nothing would be kept
    if not _is_plain(norm, act, conv) or not is_eager(conv.weight, norm.weight):
        return conv(act(norm(x)))
    if x.shape[1] != norm.num_features or x.numel() == x.shape[1]:  # the norm will tell
        return conv(act(norm(x)))
    mean, var = moments(x) if norm.training else (norm.running_mean, norm.running_var)
    assert mean is not None
    assert var is not None
    if norm.training:
        _track(norm, mean, var, x.numel() // x.shape[1])
    as_gain = norm.weight.dtype
    used = _Norm(norm.weight, norm.bias, mean.to(as_gain), var.to(as_gain), norm.training, norm.eps)
    assert isinstance(conv.padding, tuple)
    if not needs_gradient(x, conv.weight, norm.weight, norm.bias):
        return _conv(used.then_relu(x), conv.weight, conv.padding)
    out: Tensor = _NormReluConv.apply(x, conv.weight, conv.padding, *used)  # type: ignore[no-untyped-call]  # torch does not type it
    return out


class _Norm(NamedTuple):
    """A batch norm: (x - mean) / sqrt(var + eps) * gain + shift, with c numbers each."""

    gain: Tensor
    shift: Tensor
    mean: Tensor
    var: Tensor
    by_batch: bool  # whether mean and var are those of x
    eps: float

    def then_relu(self, x: Tensor) -> Tensor:
        y = F.batch_norm(as_image(x), self.mean, self.var, self.gain, self.shift, eps=self.eps)
        return as_batch(y.relu_(), len(x))

    def backward(self, of_y: Tensor, x: Tensor, y: Tensor, wanted: list[bool]) -> list[Tensor | None]:
        """Gradients of x, gain and shift, from that of ``y``, which is overwritten."""
        of_y, y = as_image(of_y, like=x), as_image(y, like=x)
        _aten.threshold_backward.grad_input(of_y, y, 0, grad_input=of_y)
        statistics = (self.mean, self.var, self.mean, (self.var + self.eps).rsqrt())
        of_x, of_gain, of_shift = _aten.native_batch_norm_backward(
            of_y, as_image(x), self.gain, *statistics, self.by_batch, self.eps, wanted
        )
        return [None if of_x is None else as_batch(of_x, len(x)), of_gain, of_shift]


class _NormReluConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: tuple[int, ...], *norm: Any) -> Tensor:
        ctx.save_for_backward(x, weight, *norm[:4])
        ctx.options = norm[4:]
        ctx.padding = padding
        return _conv(_Norm(*norm).then_relu(x), weight, padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, *numbers = ctx.saved_tensors
        norm = _Norm(*numbers, *ctx.options)
        wanted = [ctx.needs_input_grad[i] for i in (0, 1, 3, 4)]
        gradients = _traceable_gradients if torch.is_grad_enabled() else _gradients
        with torch.autocast(device_of(gradient), enabled=False):
            found = gradients(gradient, x, weight, norm, ctx.padding, wanted)
        of_x, of_weight, of_gain, of_shift = found
        return of_x, of_weight, None, of_gain, of_shift, None, None, None, None


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, norm: _Norm, padding: tuple[int, ...], wanted: list[bool]
) -> list[Tensor | None]:
    """Gradients of x, weight, gain and shift, where wanted."""
    of_norm = [wanted[0], *wanted[2:]]
    y = norm.then_relu(x)
    of_y, of_weight = _conv_backward(gradient, y, weight, padding, [any(of_norm), wanted[1]])
    if of_y is None:
        return [None, of_weight, None, None]
    of_x, *rest = norm.backward(of_y.to(x.dtype), x, y, of_norm)
    return [of_x, of_weight, *rest]


def _traceable_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, norm: _Norm, padding: tuple[int, ...], wanted: list[bool]
) -> list[Tensor | None]:
    """The same by operators that autograd knows: gradients that have gradients."""
    mean, var = (None, None) if norm.by_batch else (norm.mean, norm.var)
    y = F.batch_norm(x, mean, var, norm.gain, norm.shift, norm.by_batch, 0.0, norm.eps).relu()
    out = F.conv2d(y.to(gradient.dtype), weight.to(gradient.dtype), padding=padding)
    inputs = [tensor for tensor, want in zip((x, weight, norm.gain, norm.shift), wanted) if want]
    found = iter(torch.autograd.grad(out, inputs, gradient, create_graph=True))
    return [next(found) if want else None for want in wanted]


def _conv(y: Tensor, weight: Tensor, padding: tuple[int, ...]) -> Tensor:
    pointwise = _is_pointwise(y, weight, padding)
    if pointwise and device_of(y) in MEASURED:
        # The result has channels last, which the next convolution is quickest with.
        n, _, h, w = y.shape
        return (_columns(y).t() @ weight.flatten(1).t()).view(n, h, w, -1).permute(0, 3, 1, 2)
    return as_batch(F.conv2d(as_image(y) if pointwise else y, weight, padding=padding), len(y))


def _conv_backward(
    gradient: Tensor, y: Tensor, weight: Tensor, padding: tuple[int, ...], wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of y and weight, where wanted."""
    y, weight = y.to(gradient.dtype), weight.to(gradient.dtype)  # autocast may have computed in 16 bits
    pointwise = _is_pointwise(y, weight, padding)
    n, c, h, w = y.shape
    if pointwise and device_of(y) in MEASURED:
        rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
        of_weight = (rows.t() @ _columns(y).t()).view_as(weight) if wanted[1] else None
        columns = weight.flatten(1).t() @ rows.t() if wanted[0] else None
        return None if columns is None else columns.view(c, n, h, w).transpose(0, 1), of_weight
    if pointwise:
        gradient, y = as_image(gradient, like=y), as_image(y)
    geometry = ([1, 1], padding, [1, 1], False, [0, 0], 1)
    of_y, of_weight, _ = _aten.convolution_backward(gradient, y, weight, None, *geometry, [*wanted, False])
    return None if of_y is None else as_batch(of_y, n), of_weight


def _is_pointwise(y: Tensor, weight: Tensor, padding: tuple[int, ...]) -> bool:
    return weight.shape[2:] == (1, 1) and padding == (0, 0) and is_channel_major(y)


def _columns(y: Tensor) -> Tensor:
    """(n, c, h, w) to (c, n * h * w)."""
    return y.transpose(0, 1).flatten(1)


def _track(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """Brings the running statistics up to date, as the norm itself would."""
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_((var * (count / (count - 1))).to(norm.running_var.dtype), norm.momentum)


def _is_plain(norm: nn.BatchNorm2d, act: nn.Module, conv: nn.Conv2d) -> bool:
    """Whether these are the modules told above, and calling them does nothing more."""
    return (
        (type(norm), type(act), type(conv)) == (nn.BatchNorm2d, nn.ReLU, nn.Conv2d)
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and conv.stride == conv.dilation == (1, 1)
        and conv.groups == 1
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
        and not (_is_hooked(norm) or _is_hooked(act) or _is_hooked(conv) or _has_any_global_hook())  # type: ignore[no-untyped-call]  # torch does not type it
    )


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )
