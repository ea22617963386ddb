"""The blocks of EfficientNets and mobile networks.

A block is a sequence of named parts and a shortcut around them. Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from typing_extensions import Self

from classy_vision.config import Config, NonNegativeInt, PositiveFloat, PositiveInt
from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.layers.conv_norm_act import ConvFactory, ConvNormAct, sequential
from classy_vision.layers.residual import add_shortcut
from classy_vision.layers.squeeze_and_excitation import SqueezeAndExcitationLayer
from classy_vision.layers.stochastic_depth import StochasticDepth

# -- config

Kernels = Annotated[tuple[PositiveInt, ...], Field(min_length=2)]


class BlockParams(Config):
    """A row of a stage: one or more blocks of one kind.

    Attributes:
        block: "mbconv" (1x1 expansion, depthwise convolution, 1x1 projection), "separable" (the same without
            the expansion), "fused" (one convolution for expansion and depthwise convolution), "universal" (an
            mbconv with another depthwise convolution before it, both optional), "conv" (nothing but a
            convolution), or "attention" (heads share one key and value).
        channels: of the output, at a width of 1.
        repeats: the number of blocks, at a depth of 1; the first has the stride.
        kernel: of the depthwise convolution or, in "conv" and "fused", of the convolution. Several share the
            channels equally. 0 leaves it out of a "universal" block.
        kernel_before: of the depthwise convolution before a "universal" block; 0 leaves it out.
        stride: of the kernel.
        expansion: channels inside per channel of the input; multiples of 8 where it is not a whole number.
        squeeze: channels of squeeze-and-excitation per channel of the input, or of those inside: see ``of`` of
            the network's ``squeeze``. 0 leaves it out.
        activation: another than the network's.
        shortcut: whether the input is added to the output where their shapes are the same.
        project_activation: an activation after the projection of a "separable" block.
        groups: of the expansion and the projection of an "mbconv".
        heads, head_width: of "attention".
        key_stride: of a depthwise convolution of 3x3 before the keys and the values of "attention".
    """

    block: Literal["mbconv", "separable", "fused", "universal", "conv", "attention"]
    channels: PositiveInt
    repeats: PositiveInt = 1
    kernel: NonNegativeInt | Kernels = 3
    kernel_before: NonNegativeInt = 0
    stride: PositiveInt = 1
    expansion: PositiveFloat = 1.0
    squeeze: Annotated[float, Field(ge=0, le=1)] = 0.0
    activation: Annotated[ActivationType, Field(strict=False)] | None = None
    shortcut: bool = True
    project_activation: bool = False
    groups: tuple[PositiveInt, PositiveInt] = (1, 1)
    heads: PositiveInt = 8
    head_width: PositiveInt = 64
    key_stride: PositiveInt = 1

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        for key in self.model_fields_set - COMMON - OWN[self.block]:
            raise ValueError(f"a block of the kind {self.block!r} does not take {key}")
        mixes = self.block in ("mbconv", "separable")
        if self.block != "universal" and self.kernel == 0:
            raise ValueError("kernel = 0 is for a block of the kind 'universal'")
        if isinstance(self.kernel, tuple) and not mixes:
            raise ValueError(f"a block of the kind {self.block!r} has one kernel, not {list(self.kernel)}")
        if self.stride > 1 and (self.block == "attention" or not (self.kernel or self.kernel_before)):
            raise ValueError(f"stride = {self.stride} needs a convolution that has it")
        return self


COMMON = {"block", "channels", "repeats", "stride", "activation", "shortcut"}
OWN: Mapping[str, set[str]] = {
    "mbconv": {"kernel", "expansion", "squeeze", "groups"},
    "separable": {"kernel", "squeeze", "project_activation"},
    "fused": {"kernel", "expansion", "squeeze"},
    "universal": {"kernel", "kernel_before", "expansion", "squeeze"},
    "conv": {"kernel"},
    "attention": {"heads", "head_width", "key_stride"},
}
"""The keys that only some kinds of blocks take."""


class SqueezeParams(Config):
    """How squeeze-and-excitation is done.

    Attributes:
        of: whose channels the squeeze is a part of: the block's "input", or those inside, "expanded".
        divisor: its width is a multiple of it.
        activation: another than the block's.
        gate: "sigmoid", or "hardsigmoid".
    """

    of: Literal["input", "expanded"] = "input"
    divisor: PositiveInt = 1
    activation: Annotated[ActivationType, Field(strict=False)] | None = None
    gate: Literal["sigmoid", "hardsigmoid"] = "sigmoid"


def round_width(width: float, divisor: int, least: int | None = None) -> int:
    """``width`` as a multiple of ``divisor``, at least 90 % of it."""
    rounded = max(least or divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * width else rounded


Parts = dict[str, nn.Module]
"""Of a block, by name, in their order."""

# -- layers


class MixedConv2d(nn.ModuleList):
    """Depthwise convolutions with kernels of several sizes, each for a part of the channels (Tan & Le,
    "MixConv: Mixed Depthwise Convolutional Kernels", 2019).

    Shape: (n, c, h, w) to (n, c, ceil(h / stride), ceil(w / stride)).
    """

    def __init__(self, convs: Sequence[Any]) -> None:
        super().__init__(convs)
        self.widths = [conv.in_channels for conv in convs]

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.widths, 1)  # tracers cannot iterate over them
        return torch.cat([conv(parts[i]) for i, conv in enumerate(self)], 1)


class LayerScale2d(nn.Module):
    """Scales each channel by a learned factor (Touvron et al., "Going deeper with Image Transformers", 2021).

    Shape: (n, c, h, w), unchanged.
    """

    def __init__(self, channels: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(value * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma[:, None, None]


class MultiQueryAttention2d(nn.Module):
    """Attention between positions, whose heads have queries of their own, and one key and value (Shazeer, "Fast
    Transformer Decoding: One Write-Head is All You Need", 2019).

    Shape: (n, channels, h, w) to (n, width, h, w).

    Args:
        conv: makes the convolutions.
        channels, width: of the input and the output.
        row: heads and strides.
    """

    def __init__(self, conv: ConvFactory, channels: int, width: int, row: BlockParams) -> None:
        super().__init__()
        self.heads, self.head_width = row.heads, row.head_width
        self.query = _pointwise(channels, row.heads * row.head_width)
        self.key = self._shrink(conv, channels, row)
        self.value = self._shrink(conv, channels, row)
        self.project = _pointwise(row.heads * row.head_width, width)

    @staticmethod
    def _shrink(conv: ConvFactory, channels: int, row: BlockParams) -> nn.Sequential:
        parts: Parts = {"project": _pointwise(channels, row.head_width)}
        if row.key_stride > 1:
            parts = {"down": conv(channels, channels, 3, row.key_stride, channels, act=False), **parts}
        return sequential(**parts)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        q = self.query(x).reshape(n, self.heads, self.head_width, h * w).transpose(2, 3)
        k, v = (
            part(x).flatten(2).mT[:, None].expand(-1, self.heads, -1, -1) for part in (self.key, self.value)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        out = out.transpose(2, 3).contiguous()  # Inductor fails to see that h and w split a view's last axis
        return self.project(out.view(n, self.heads * self.head_width, h, w))


def _pointwise(width_in: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 1, bias=False)


# -- blocks


class MBConvBlock(nn.Module):
    """Parts one after the other, and a shortcut around them where that is possible.

    Args:
        parts: by name.
        drop: rate of stochastic depth.
        shortcut: whether the input is added to the output.
        in_place: whether the sum may be written over the last part's output.
    """

    def __init__(self, parts: Mapping[str, nn.Module], drop: float, shortcut: bool, in_place: bool) -> None:
        super().__init__()
        self.parts = tuple(parts)
        for name, part in parts.items():
            self.add_module(name, part)
        self.drop = StochasticDepth(drop)
        self.shortcut = shortcut
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for name in self.parts:
            out = getattr(self, name)(out)
        if not self.shortcut:
            return out
        out = self.drop(out)
        return add_shortcut(out, x) if self.in_place else out + x


@dataclass(frozen=True)
class BlockFactory:
    """Makes the blocks of one network.

    Attributes:
        conv: makes the convolutions.
        squeeze: how squeeze-and-excitation is done; None leaves it out.
        pools: whether average pooling takes the strides over.
        layer_scale: where the scales of "universal" and "attention" blocks start; None leaves them out.
    """

    conv: ConvFactory
    squeeze: SqueezeParams | None
    pools: bool
    layer_scale: float | None

    def __call__(self, row: BlockParams, width_in: int, width: int, stride: int, drop: float) -> MBConvBlock:
        """A block.

        Args:
            row: what it is.
            width_in, width: channels in and out.
            stride: its own; the row's is that of its first block.
            drop: rate of stochastic depth.
        """
        here = replace(self, conv=replace(self.conv, activation=row.activation or self.conv.activation))
        parts = KINDS[row.block](here, row, width_in, width, stride)
        ends_in_norm = row.block != "conv" and not row.project_activation
        shortcut = row.shortcut and stride == 1 and width_in == width
        return MBConvBlock(parts, drop, shortcut, in_place=ends_in_norm)

    def depthwise(self, width: int, kernel: int | Kernels, stride: int, act: bool = True) -> ConvNormAct:
        """A depthwise convolution with one kernel or several."""
        if isinstance(kernel, int):
            return self.strided(width, width, kernel, stride, width, act)
        share = width // len(kernel)
        shares = [width - share * (len(kernel) - 1), *[share] * (len(kernel) - 1)]
        layers = self.conv(width, width, 1, 1, width, act=act)
        layers[0] = MixedConv2d([self.conv(n, n, k, stride, n).conv for n, k in zip(shares, kernel)])
        return layers

    def strided(
        self, width_in: int, width: int, kernel: int, stride: int, groups: int = 1, act: bool = True
    ) -> ConvNormAct:
        """A convolution whose stride pooling may take over."""
        if stride == 1 or not self.pools:
            return self.conv(width_in, width, kernel, stride, groups, act=act)
        layers = self.conv(width_in, width, kernel, 1, groups, act=act)
        layers.add_module("pool", nn.AvgPool2d(stride))
        return layers

    def excite(self, row: BlockParams, width_in: int, inner: int) -> dict[str, nn.Module]:
        """Squeeze-and-excitation, where it is asked for."""
        how = self.squeeze
        if how is None or not row.squeeze:
            return {}
        width = row.squeeze * (width_in if how.of == "input" else inner)
        width = round_width(width, how.divisor) if how.divisor > 1 else max(1, int(width))
        act = new_activation(how.activation or self.conv.activation)
        gate = nn.Hardsigmoid() if how.gate == "hardsigmoid" else nn.Sigmoid()
        return {"se": SqueezeAndExcitationLayer(inner, None, width, act, gate)}

    def scale(self, width: int) -> dict[str, nn.Module]:
        """Layer scale, where it is asked for."""
        return {} if self.layer_scale is None else {"scale": LayerScale2d(width, self.layer_scale)}


def inner_width(row: BlockParams, width_in: int) -> int:
    """Channels inside a block."""
    inner = width_in * row.expansion
    return int(inner) if row.expansion == int(row.expansion) else round_width(inner, 8)


def mbconv(make: BlockFactory, row: BlockParams, width_in: int, width: int, stride: int) -> Parts:
    """1x1 expansion, depthwise, squeeze-and-excitation, 1x1 projection."""
    inner = inner_width(row, width_in)
    return {
        "expand": make.conv(width_in, inner, 1, groups=row.groups[0]),
        "depthwise": make.depthwise(inner, row.kernel, stride),
        **make.excite(row, width_in, inner),
        "project": make.conv(inner, width, 1, groups=row.groups[1], act=False),
    }


def separable(make: BlockFactory, row: BlockParams, width_in: int, width: int, stride: int) -> Parts:
    """Depthwise, squeeze-and-excitation, 1x1 projection."""
    return {
        "depthwise": make.depthwise(width_in, row.kernel, stride),
        **make.excite(row, width_in, width_in),
        "project": make.conv(width_in, width, 1, act=row.project_activation),
    }


def fused(make: BlockFactory, row: BlockParams, width_in: int, width: int, stride: int) -> Parts:
    """Expansion, squeeze-and-excitation, 1x1 projection."""
    assert isinstance(row.kernel, int)
    inner = inner_width(row, width_in)
    return {
        "expand": make.strided(width_in, inner, row.kernel, stride),
        **make.excite(row, width_in, inner),
        "project": make.conv(inner, width, 1, act=False),
    }


def universal(make: BlockFactory, row: BlockParams, width_in: int, width: int, stride: int) -> Parts:
    """Depthwise, 1x1 expansion, depthwise, 1x1 projection; the last depthwise convolution has the stride."""
    inner = inner_width(row, width_in)
    parts: Parts = {}
    if row.kernel_before:
        parts["before"] = make.depthwise(width_in, row.kernel_before, 1 if row.kernel else stride, act=False)
    parts["expand"] = make.conv(width_in, inner, 1)
    if row.kernel:
        parts["depthwise"] = make.depthwise(inner, row.kernel, stride)
    parts |= make.excite(row, width_in, inner)
    return {**parts, "project": make.conv(inner, width, 1, act=False), **make.scale(width)}


def convolution(make: BlockFactory, row: BlockParams, width_in: int, width: int, stride: int) -> Parts:
    """Convolution, norm, activation."""
    assert isinstance(row.kernel, int)
    return dict(make.strided(width_in, width, row.kernel, stride).named_children())


def attention(make: BlockFactory, row: BlockParams, width_in: int, width: int, stride: int) -> Parts:
    """Norm, attention."""
    return {
        "norm": make.conv.norm(width_in),
        "attention": MultiQueryAttention2d(make.conv, width_in, width, row),
        **make.scale(width),
    }


KINDS: Mapping[str, Callable[[BlockFactory, BlockParams, int, int, int], Parts]] = {
    "mbconv": mbconv,
    "separable": separable,
    "fused": fused,
    "universal": universal,
    "conv": convolution,
    "attention": attention,
}
