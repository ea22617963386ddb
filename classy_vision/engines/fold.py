"""Fewer layers with the same numbers: affine steps move into the convolutions beside them.

All of it is exact, but for rounding, and leaves plain layers of torch: such a model exports and
compiles as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from classy_vision.engines.graph import calls, constant, drop, module_at, put, reader, tidy
from classy_vision.layers.conv_norm_act import SameConv2d

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVS = (nn.Conv2d, nn.Conv3d)
Inputs = Mapping[nn.Module, Sequence[int]]
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Dropout3d)


class Clamp(nn.Module):
    """Keeps each channel between two bounds. Shape: (n, c, ...), unchanged.

    A batch norm and a ReLU are this, up to an affine step that the next convolution takes over:
    relu(a x + b) = a max(x, -b / a) + b for positive a, and a min(x, -b / a) + b for negative a.
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.one_sided = bool(torch.isposinf(high).all())

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.low) if self.one_sided else torch.clamp(x, self.low, self.high)


def fold(graph: fx.GraphModule, inputs: Inputs, dtype: torch.dtype) -> None:
    """Applies every rule to every node, in the order in which they run.

    Args:
        graph: a part in evaluation; it is changed.
        inputs: shapes of usual inputs, by layer.
        dtype: in which it is going to run: bounds and weights are rounded together.
    """
    for node in list(graph.graph.nodes):
        for rule in _RULES:
            if rule(node, inputs, dtype):
                break
    tidy(graph)


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Gain and shift of a batch norm in evaluation, in float64."""
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    gain = gain if norm.weight is None else gain * norm.weight.double()
    shift = -norm.running_mean.double() * gain
    return gain, shift if norm.bias is None else shift + norm.bias.double()


# -- rules: each says whether it has taken its node out


def _leave_out(node: fx.Node, inputs: Inputs, dtype: torch.dtype) -> bool:
    if not isinstance(module_at(node), _NOTHING):
        return False
    drop(node, node.all_input_nodes[0])
    return True


def _norm_behind(node: fx.Node, inputs: Inputs, dtype: torch.dtype) -> bool:
    """Convolution, norm."""
    norm = module_at(node)
    if not isinstance(norm, _NORMS) or norm.running_mean is None:
        return False
    before = node.all_input_nodes[0]
    layer = module_at(before)
    if not isinstance(layer, (*_CONVS, nn.Linear)) or reader(before) is not node:
        return False
    if isinstance(layer, nn.Linear) and len(inputs.get(layer, ())) != 2:
        return False  # of (n, s, c) the norm is over s
    gain, shift = affine(norm)
    _scale_outputs(layer, gain, shift)
    drop(node, before)
    return True


def _norm_before(node: fx.Node, inputs: Inputs, dtype: torch.dtype) -> bool:
    """Norm, convolution; or norm, ReLU, convolution."""
    norm = module_at(node)
    if not isinstance(norm, _NORMS) or norm.running_mean is None:
        return False
    act = reader(node)
    closed = act is not None and isinstance(module_at(act), nn.ReLU)
    last = act if closed else node
    after = reader(last) if last is not None else None
    conv = module_at(after)
    if not isinstance(conv, _CONVS) or _pads(conv) or conv.groups != 1:
        return False  # padding puts zeros behind the norm
    assert last is not None
    gain, shift = affine(norm)
    if not closed:
        _scale_inputs(conv, gain, shift)
        drop(node, node.all_input_nodes[0])
        return True
    put(node, _clamp_before(conv, gain, shift, dtype))
    drop(last, node)
    return True


def _layer_scale(node: fx.Node, inputs: Inputs, dtype: torch.dtype) -> bool:
    """Linear layer, factor of each channel, sum."""
    if not calls(node, torch.addcmul) or node.kwargs or len(node.args) != 3:
        return False
    x, branch, factor = node.args
    layer, scale = module_at(branch), constant(factor)
    if not isinstance(layer, nn.Linear) or scale is None or not isinstance(branch, fx.Node):
        return False
    if reader(branch) is not node:
        return False
    _scale_outputs(layer, scale.double(), torch.zeros_like(scale, dtype=torch.float64))
    with node.graph.inserting_before(node):
        total = node.graph.call_function(torch.add, (x, branch))
    drop(node, total)
    return True


_RULES: tuple[Callable[[fx.Node, Inputs, torch.dtype], bool], ...] = (
    _leave_out,
    _norm_behind,
    _norm_before,
    _layer_scale,
)


def _pads(conv: nn.Conv2d | nn.Conv3d) -> bool:
    if isinstance(conv, SameConv2d) or isinstance(conv.padding, str):
        return any(kernel > 1 for kernel in conv.kernel_size)
    return any(conv.padding)


# -- arithmetic


def _set(layer: Any, weight: Tensor, bias: Tensor) -> None:
    kind = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(kind), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(kind), requires_grad=False)


def _bias(layer: Any) -> Tensor:
    return layer.bias.double() if layer.bias is not None else layer.weight.new_zeros(len(layer.weight)).double()


def _scale_outputs(layer: Any, gain: Tensor, shift: Tensor) -> None:
    shape = (-1,) + (1,) * (layer.weight.dim() - 1)
    _set(layer, layer.weight.double() * gain.view(shape), _bias(layer) * gain + shift)


def _scale_inputs(conv: Any, gain: Tensor, shift: Tensor) -> None:
    weight = conv.weight.double()
    shape = (1, -1) + (1,) * (weight.dim() - 2)
    bias = _bias(conv) + (weight * shift.view(shape)).flatten(1).sum(1)
    _set(conv, weight * gain.view(shape), bias)


def _clamp_before(conv: Any, gain: Tensor, shift: Tensor, dtype: torch.dtype) -> Clamp:
    """Takes gain and shift of a norm and a ReLU into ``conv``; what is left of them."""
    kind = conv.weight.dtype
    weight = conv.weight.double()
    shape = (1, -1) + (1,) * (weight.dim() - 2)
    # Where no input is large enough for the ReLU to change sides, the channel is a constant or affine.
    largest = min(8 * torch.finfo(dtype).max ** 0.5, 2.0**24)
    far = shift.abs() >= largest * gain.abs()
    shut, open_ = far & (shift <= 0), far & (shift > 0)
    bound = torch.where(far, 0.0, -shift / torch.where(far, 1.0, gain)).to(dtype).double()
    scaled = (weight * torch.where(shut, 0.0, gain).view(shape)).to(dtype).double()
    bias = _bias(conv) + (weight * (shift * open_).view(shape)).flatten(1).sum(1)
    # With the rounded numbers, so that what the ReLU cuts comes to zero.
    _set(conv, scaled, bias - (scaled * bound.view(shape)).flatten(1).sum(1))
    bound, rising = bound.to(kind), gain >= 0
    none = torch.full_like(bound, torch.inf)
    low = torch.where(rising & ~open_, bound, -none)
    high = torch.where(rising | open_, none, bound)
    return Clamp(low.view(shape), high.view(shape))
