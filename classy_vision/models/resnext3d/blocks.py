"""Residual blocks for clips. Axes: n batch, c channels, t time, h height, w width."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.fx
from torch import Tensor, nn

from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.layers.conv_norm_act import sequential
from classy_vision.layers.residual import add_shortcut
from classy_vision.layers.stochastic_depth import StochasticDepth

Kernel = tuple[int, int, int]

torch.fx.wrap("as_clip")


@dataclass(frozen=True)
class BlockPlan:
    """What one block is told.

    Attributes:
        residual, skip: the kinds of branch (a name in ``RESIDUALS``) and of shortcut.
        width_in, width: channels in and out.
        inner, groups: channels and groups of a bottleneck's 3x3.
        temporal_kernel: of a bottleneck or a basic block.
        shared_midplanes: (2+1)D convolutions of a block have the first one's inner channels.
        temporal_conv_1x1: whether that is on its first 1x1, not on its 3x3.
        stride: in time, height and width.
        first: of the network; its input is activated already.
        drop: rate of stochastic depth.
        bn: epsilon and momentum of the norms.
    """

    residual: str
    skip: str
    width_in: int
    width: int
    inner: int
    groups: int
    temporal_kernel: int
    temporal_conv_1x1: bool
    shared_midplanes: bool
    stride: Kernel
    first: bool
    drop: float
    bn: tuple[float, float]

    def norm(self, channels: int) -> nn.Module:
        return nn.BatchNorm3d(channels, *self.bn)

    @property
    def kernels(self) -> tuple[Kernel, Kernel]:
        """Of the first 1x1 convolution of a bottleneck, and of its 3x3."""
        t = self.temporal_kernel
        return ((t, 1, 1), (1, 3, 3)) if self.temporal_conv_1x1 else ((1, 1, 1), (t, 3, 3))


def conv3d(c_in: int, c_out: int, kernel: Kernel, stride: Kernel = (1, 1, 1), groups: int = 1) -> nn.Conv3d:
    """A convolution without bias that keeps the size, but for its stride."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)


def relu() -> nn.Module:
    return new_activation(ActivationType.RELU)


def midplanes(c_in: int, c_out: int) -> int:
    """Inner channels with which a (2+1)D convolution has the weights of a 3x3x3 (section 3.5)."""
    return (27 * c_in * c_out) // (9 * c_in + 3 * c_out)


def r2plus1d(p: BlockPlan, c_in: int, c_out: int, stride: Kernel) -> nn.Sequential:
    """1x3x3, norm, ReLU, 3x1x1 (Tran et al., 2018)."""
    middle = midplanes(p.width_in if p.shared_midplanes else c_in, c_out)
    return sequential(
        spatial=conv3d(c_in, middle, (1, 3, 3), (1, stride[1], stride[2])),
        norm=p.norm(middle),
        act=relu(),
        temporal=conv3d(middle, c_out, (3, 1, 1), (stride[0], 1, 1)),
    )


def basic(p: BlockPlan) -> nn.Module:
    """3x3x3, 3x3x3, or another length in time."""
    kernel = (p.temporal_kernel, 3, 3)
    a = sequential(conv=conv3d(p.width_in, p.width, kernel, p.stride), norm=p.norm(p.width), act=relu())
    return sequential(a=a, b=sequential(conv=conv3d(p.width, p.width, kernel), norm=p.norm(p.width)))


def basic_r2plus1d(p: BlockPlan) -> nn.Module:
    """The same, each convolution split into space and time."""
    a = sequential(conv=r2plus1d(p, p.width_in, p.width, p.stride), norm=p.norm(p.width), act=relu())
    conv = r2plus1d(p, p.width, p.width, (1, 1, 1))
    return sequential(a=a, b=sequential(conv=conv, norm=p.norm(p.width)))


def postactivated_bottleneck(p: BlockPlan) -> nn.Module:
    """1x1, grouped 3x3, 1x1, with norms and activations after them."""
    ka, kb = p.kernels
    return sequential(
        a=sequential(conv=conv3d(p.width_in, p.inner, ka), norm=p.norm(p.inner), act=relu()),
        b=sequential(conv=conv3d(p.inner, p.inner, kb, p.stride, p.groups), norm=p.norm(p.inner), act=relu()),
        c=sequential(conv=conv3d(p.inner, p.width, (1, 1, 1)), norm=p.norm(p.width)),
    )


def preactivated_bottleneck(p: BlockPlan) -> nn.Module:
    """The same with norms and activations before them; the first block finds its input activated."""
    ka, kb = p.kernels
    a = {"conv": conv3d(p.width_in, p.inner, ka)}
    before = {} if p.first else {"norm": p.norm(p.width_in), "act": relu()}
    b_norm, b = p.norm(p.inner), conv3d(p.inner, p.inner, kb, p.stride, p.groups)
    c_norm, c = p.norm(p.inner), conv3d(p.inner, p.width, (1, 1, 1))
    return sequential(
        a=sequential(**before, **a),
        b=sequential(norm=b_norm, act=relu(), conv=b),
        c=sequential(norm=c_norm, act=relu(), conv=c),
    )


RESIDUALS: dict[str, Callable[[BlockPlan], nn.Module]] = {
    "basic_transformation": basic,
    "basic_r2plus1d_transformation": basic_r2plus1d,
    "postactivated_bottleneck_transformation": postactivated_bottleneck,
    "preactivated_bottleneck_transformation": preactivated_bottleneck,
}


def shortcut(p: BlockPlan) -> nn.Module:
    """A 1x1 convolution where shapes change, its norm after it or (with ReLU) before it."""
    if p.width_in == p.width and p.stride == (1, 1, 1):
        return nn.Identity()
    if p.skip == "postactivated_shortcut":
        return sequential(conv=conv3d(p.width_in, p.width, (1, 1, 1), p.stride), norm=p.norm(p.width))
    before = {} if p.first else {"norm": p.norm(p.width_in), "act": relu()}
    return sequential(**before, conv=conv3d(p.width_in, p.width, (1, 1, 1), p.stride))


class ResBlock3D(nn.Module):
    """A residual branch and a shortcut; ReLU after their sum."""

    def __init__(self, p: BlockPlan) -> None:
        super().__init__()
        self.skip = shortcut(p)
        self.residual = RESIDUALS[p.residual](p)
        self.drop = StochasticDepth(p.drop)
        self.activation = relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(add_shortcut(self.drop(self.residual(x)), self.skip(x)))


class Stem3D(nn.Sequential):
    """A convolution of stride 2 in space, norm, ReLU, and a max pool in space where asked for.

    Shape: (n, c, t, h, w), or (n, c, h, w) as one frame, alone or in a dict, to a clip.

    Args:
        channels_in, planes: channels in and out.
        kernel: of the convolution.
        split: in space first, to 45 channels, and then in time.
        pool: with the max pool.
        norm: epsilon and momentum of the norms.
        input_key: where the clip is, in a dict.
    """

    def __init__(
        self,
        channels_in: int,
        planes: int,
        kernel: Kernel,
        split: bool,
        pool: bool,
        norm: tuple[float, float],
        input_key: str | None,
    ) -> None:
        super().__init__()
        self.input_key = input_key
        t, h, w = kernel
        if split:
            conv: nn.Module = sequential(
                spatial=conv3d(channels_in, 45, (1, h, w), (1, 2, 2)),
                norm=nn.BatchNorm3d(45, *norm),
                act=relu(),
                temporal=conv3d(45, planes, (t, 1, 1)),
            )
        else:
            conv = conv3d(channels_in, planes, kernel, (1, 2, 2))
        for name, part in {"conv": conv, "norm": nn.BatchNorm3d(planes, *norm), "act": relu()}.items():
            self.add_module(name, part)
        if pool:
            self.add_module("pool", nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(as_clip(x, self.input_key))  # type: ignore[no-untyped-call]  # torch does not type it


def as_clip(x: Tensor | Mapping[str, Tensor], key: str | None) -> Tensor:
    """The clip (n, c, t, h, w): out of a dict, and with a time of 1 where it has none."""
    if isinstance(x, Mapping):
        assert key is not None
        x = x[key]
    return x.unsqueeze(2) if x.dim() == 4 else x
