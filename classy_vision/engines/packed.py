"""Layers as they are quickest on a CPU: oneDNN's calls, and what spares fresh memory, which costs as
much as the arithmetic of small layers (a page is mapped when it is first written).

For inference: nothing here has a gradient. Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.engines.fold import Clamp
from classy_vision.heads.pooling import pool
from classy_vision.layers.conv_norm_act import SameConv2d
from classy_vision.models.vision_transformer.positions import PositionResize, resized

_onednn = torch.ops.mkldnn
_REORDER: dict[type[nn.Module], Any] = {
    nn.Conv2d: torch._C._nn.mkldnn_reorder_conv2d_weight,
    SameConv2d: torch._C._nn.mkldnn_reorder_conv2d_weight,
    nn.Conv3d: torch._C._nn.mkldnn_reorder_conv3d_weight,
}
CONVS = tuple(_REORDER)


class Then(NamedTuple):
    """What follows a layer in the same call.

    Attributes:
        act: oneDNN's name of an activation.
        algorithm: which kind of it: "none" or "tanh" of "gelu".
        adds: a second input is added first.
    """

    act: str = "none"
    algorithm: str = ""
    adds: bool = False


class Packed(nn.Module):
    """A layer whose weights are in the order that this machine's library likes best."""

    bias: Tensor | None

    def __init__(self, layer: nn.Conv2d | nn.Conv3d | nn.Linear, then: Then) -> None:
        super().__init__()
        self.then = then
        self.shape = tuple(layer.weight.shape)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach(), persistent=False)

    def extra_repr(self) -> str:
        return ", ".join(map(str, (self.shape, self.then.act, *(["adds"] if self.then.adds else []))))


class PackedConv(Packed):
    """Convolution, sum, activation. Shape: as of the convolution; a second input as its output.

    Args:
        conv: with padding by numbers, or a SameConv2d.
        then: what follows.
        size: shape of the usual input.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, then: Then, size: Sequence[int]) -> None:
        super().__init__(conv, then)
        self.same = conv if isinstance(conv, SameConv2d) and not _is_symmetric(conv) else None
        padding = (0, 0) if self.same else conv.padding
        self.geometry = (list(padding), list(conv.stride), list(conv.dilation), conv.groups)
        weight = conv.weight.detach().to_mkldnn()
        self.weight = _REORDER[type(conv)](weight, *self.geometry, list(size))

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if self.same is not None:
            x = F.pad(x, self.same.pads(x))
        if other is None:
            call = _onednn._convolution_pointwise.default
            return call(x, self.weight, self.bias, *self.geometry, self.then.act, [], self.then.algorithm)
        call = _onednn._convolution_pointwise.binary
        act = None if self.then.act == "none" else self.then.act
        return call(x, other, self.weight, self.bias, *self.geometry, "add", 1.0, act, [], self.then.algorithm)


def _is_symmetric(conv: SameConv2d) -> bool:
    """Whether "SAME" is the padding of ``conv`` by numbers, at any size."""
    half = tuple(kernel // 2 for kernel in conv.kernel_size)
    odd = all(kernel % 2 for kernel in conv.kernel_size)
    return odd and set(conv.stride) == set(conv.dilation) == {1} and tuple(conv.padding) == half


class PackedLinear(Packed):
    """Linear layer, then a sum or an activation. Shape: as of the linear layer.

    Args:
        linear: the layer.
        then: what follows.
        rows: vectors of the usual input.
    """

    def __init__(self, linear: nn.Linear, then: Then, rows: int) -> None:
        super().__init__(linear, then)
        self.weight = _onednn._reorder_linear_weight(linear.weight.detach(), rows)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if other is None or other.shape != (*x.shape[:-1], self.shape[0]):
            call = _onednn._linear_pointwise.default
            out = call(x, self.weight, self.bias, self.then.act, [], self.then.algorithm)
            return out if other is None else out + other
        return _onednn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")


class Workspace:
    """Memory for what is read once and soon: the same for all layers of a model, another for each thread."""

    def __init__(self) -> None:
        self._threads = threading.local()

    def like(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of (..., c) whose values are whatever was there."""
        wanted = torch.Size(shape).numel()
        flat: Tensor | None = getattr(self._threads, "flat", None)
        if flat is None or flat.numel() < wanted or flat.dtype != dtype:
            with torch.inference_mode(False):  # so that it can be written to in any mode
                flat = torch.empty(wanted, dtype=dtype)
            self._threads.flat = flat
        return flat[:wanted].view(shape)


class ClampInto(nn.Module):
    """Clamp, into a workspace. Shape: (n, c, h, w), unchanged; for a layer that follows at once."""

    low: Tensor
    high: Tensor

    def __init__(self, clamp: Clamp, space: Workspace) -> None:
        super().__init__()
        self.register_buffer("low", clamp.low)
        self.register_buffer("high", clamp.high)
        self.one_sided = clamp.one_sided
        self.space = space

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        out = self.space.like((n, h, w, c), x.dtype).permute(0, 3, 1, 2)
        if self.one_sided:
            return torch.maximum(x, self.low, out=out)
        return torch.clamp(x, self.low, self.high, out=out)


class Excite(nn.Module):
    """Squeeze-and-excitation, in the place of its input. Shape: (n, c, h, w), unchanged.

    Pooling by a window of the whole map is several times as fast as a mean, and for vectors a call of
    oneDNN takes longer than their product.

    Args:
        squeeze, act, excite: two 1x1 convolutions, and what is between them.
    """

    squeeze: Tensor
    squeeze_bias: Tensor
    excite: Tensor
    excite_bias: Tensor

    def __init__(self, squeeze: nn.Conv2d, act: nn.Module, excite: nn.Conv2d) -> None:
        super().__init__()
        self.act = act
        for name, conv in (("squeeze", squeeze), ("excite", excite)):
            self.register_buffer(name, conv.weight.detach().flatten(1).t().float().contiguous())
            self.register_buffer(f"{name}_bias", as_bias(conv).detach().float())

    def forward(self, x: Tensor) -> Tensor:
        gate = F.avg_pool2d(x, x.shape[2:]).flatten(1).float()
        gate = self.act(torch.addmm(self.squeeze_bias, gate, self.squeeze))
        gate = torch.addmm(self.excite_bias, gate, self.excite).sigmoid_()
        return x.mul_(gate.to(x.dtype)[:, :, None, None])


class MeanPool(nn.Module):
    """``classy_vision.heads.pooling.pool``, by a window of the whole map. Same shapes."""

    def __init__(self, prefix: int = 0) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, x.shape[2:]).flatten(1) if x.dim() == 4 else pool(x, self.prefix)


def as_bias(conv: nn.Conv2d) -> Tensor:
    """The bias of a convolution, zeros where it has none."""
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


class Append(nn.Module):
    """``torch.cat([x, new], 1)`` with room behind it, where the next one is written.

    No value of another tensor changes: what is written is nobody's yet. Shape: (n, c, h, w) and
    (n, d, h, w) to (n, c + d, h, w).

    Args:
        room: channels of a new storage.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, x: Tensor, new: Tensor) -> Tensor:
        n, c, h, w = x.shape
        end = c + new.shape[1]
        # Which channels are the next to be written: an attribute of the storage, taken by one thread.
        free: set[int] | None = getattr(x.untyped_storage(), "_free", None)
        try:
            is_ours = not x.storage_offset() and x.is_inference() == torch.is_inference_mode_enabled()
            if free is None or not is_ours or x.stride() != (h * w * self.room, 1, w * self.room, self.room):
                raise KeyError(c)
            free.remove(c)
            storage = x.as_strided((n, h, w, self.room), (h * w * self.room, w * self.room, self.room, 1), 0)
        except KeyError:
            storage = x.new_empty(n, h, w, max(self.room, end))
            storage[..., :c] = x.permute(0, 2, 3, 1)
            free = set()
            setattr(storage.untyped_storage(), "_free", free)  # noqa: B010
        storage[..., c:end] = new.permute(0, 2, 3, 1)
        free.add(end)
        return storage[..., :end].permute(0, 3, 1, 2)


class Attention(nn.Module):
    """softmax(q k^T * scale) v by matrix products, sample by sample, where that is quicker than torch's
    kernel and the weights of a sample are few.

    Shape: three times (n, heads, s, d) to (n, heads, s, d).
    """

    LIMIT = 2**24
    """Attention weights of a sample, up to which memory is spent on them."""

    def __init__(self, space: Workspace) -> None:
        super().__init__()
        self.space = space

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        if q.dim() != 4 or not q.shape[:2] == k.shape[:2] == v.shape[:2]:
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        n, heads, s, d = q.shape
        if heads * s * k.shape[2] > self.LIMIT:
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        weights = self.space.like((heads, s, k.shape[2]), q.dtype)
        out = q.new_empty(n, s, heads, v.shape[3])
        q = q * (d**-0.5 if scale is None else scale)
        for i in range(n):
            torch.bmm(q[i], k[i].transpose(1, 2), out=weights)
            torch.softmax(weights, -1, out=weights)
            out[i] = torch.bmm(weights, v[i]).transpose(0, 1)
        return out.transpose(1, 2)


class Positions(nn.Module):
    """Position embeddings for the grid of an image, made once for each size of the last few.

    Args:
        positions, prefix, grid, how: as of ``classy_vision.models.vision_transformer.positions.resized``.
    """

    KEPT = 4

    positions: Tensor

    def __init__(self, positions: Tensor, prefix: int, grid: tuple[int, int], how: PositionResize) -> None:
        super().__init__()
        self.register_buffer("positions", positions.detach())
        self.prefix, self.grid, self.how = prefix, grid, how
        self._made: dict[tuple[int, int], Tensor] = {}

    def forward(self, size: tuple[int, int]) -> Tensor:
        made = self._made.get(size)
        if made is None:
            with torch.inference_mode(False):  # so that it can be read in any mode
                made = resized(self.positions, self.prefix, self.grid, size, self.how)
            if len(self._made) >= self.KEPT:
                self._made.clear()
            self._made[size] = made
        return made
