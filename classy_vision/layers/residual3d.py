"""Residual blocks for clips. Axes: n batch, c channels, t time, h height, w width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.layers.conv_norm_act import chain
from classy_vision.layers.stochastic_depth import StochasticDepth

Kernel = tuple[int, int, int]


@dataclass(frozen=True)
class BlockPlan:
    """What one block is told.

    Attributes:
        residual, skip: the kinds of branch (a name in ``RESIDUALS``) and of shortcut.
        width_in, width: channels in and out.
        inner, groups: channels and groups of a bottleneck's 3x3.
        temporal_kernel: of a bottleneck.
        temporal_conv_1x1: whether that is on its first 1x1, not on its 3x3.
        stride: in time, height and width.
        first: of the network; its input is activated already.
        drop: rate of stochastic depth.
        bn_epsilon, bn_momentum: of the norms.
    """

    residual: str
    skip: str
    width_in: int
    width: int
    inner: int
    groups: int
    temporal_kernel: int
    temporal_conv_1x1: bool
    stride: Kernel
    first: bool
    drop: float
    bn_epsilon: float
    bn_momentum: float

    def norm(self, channels: int) -> nn.Module:
        return nn.BatchNorm3d(channels, self.bn_epsilon, self.bn_momentum)

    @property
    def kernels(self) -> tuple[Kernel, Kernel]:
        """Of the first 1x1 convolution of a bottleneck, and of its 3x3."""
        t = self.temporal_kernel
        return ((t, 1, 1), (1, 3, 3)) if self.temporal_conv_1x1 else ((1, 1, 1), (t, 3, 3))

    @property
    def strides(self) -> tuple[Kernel, Kernel]:
        """Of the same: time goes with the temporal kernel, space with the 3x3."""
        t, h, w = self.stride
        return ((t, 1, 1), (1, h, w)) if self.temporal_conv_1x1 else ((1, 1, 1), self.stride)


def conv3d(c_in: int, c_out: int, kernel: Kernel, stride: Kernel = (1, 1, 1), groups: int = 1) -> nn.Conv3d:
    """A convolution without bias that keeps the size, but for its stride."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False)


def relu() -> nn.Module:
    return new_activation(ActivationType.RELU)


def r2plus1d(p: BlockPlan, c_in: int, c_out: int, stride: Kernel) -> nn.Sequential:
    """1x3x3, norm, ReLU, 3x1x1, with as many weights as a 3x3x3 (Tran et al., section 3.5)."""
    middle = (27 * c_in * c_out) // (9 * c_in + 3 * c_out)
    return chain(
        spatial=conv3d(c_in, middle, (1, 3, 3), (1, stride[1], stride[2])),
        norm=p.norm(middle),
        act=relu(),
        temporal=conv3d(middle, c_out, (3, 1, 1), (stride[0], 1, 1)),
    )


def basic(p: BlockPlan) -> nn.Module:
    """3x3x3, 3x3x3."""
    a = chain(conv=conv3d(p.width_in, p.width, (3, 3, 3), p.stride), norm=p.norm(p.width), act=relu())
    return chain(a=a, b=chain(conv=conv3d(p.width, p.width, (3, 3, 3)), norm=p.norm(p.width)))


def basic_r2plus1d(p: BlockPlan) -> nn.Module:
    """The same, each convolution split into space and time."""
    a = chain(conv=r2plus1d(p, p.width_in, p.width, p.stride), norm=p.norm(p.width), act=relu())
    conv = r2plus1d(p, p.width, p.width, (1, 1, 1))
    return chain(a=a, b=chain(conv=conv, norm=p.norm(p.width)))


def postactivated_bottleneck(p: BlockPlan) -> nn.Module:
    """1x1, grouped 3x3, 1x1, with norms and activations behind them."""
    (ka, kb), (sa, sb) = p.kernels, p.strides
    return chain(
        a=chain(conv=conv3d(p.width_in, p.inner, ka, sa), norm=p.norm(p.inner), act=relu()),
        b=chain(conv=conv3d(p.inner, p.inner, kb, sb, p.groups), norm=p.norm(p.inner), act=relu()),
        c=chain(conv=conv3d(p.inner, p.width, (1, 1, 1)), norm=p.norm(p.width)),
    )


def preactivated_bottleneck(p: BlockPlan) -> nn.Module:
    """The same with norms and activations before them; the first block finds its input activated."""
    (ka, kb), (sa, sb) = p.kernels, p.strides
    a = {"conv": conv3d(p.width_in, p.inner, ka, sa)}
    before = {} if p.first else {"norm": p.norm(p.width_in), "act": relu()}
    b_norm, b = p.norm(p.inner), conv3d(p.inner, p.inner, kb, sb, p.groups)
    c_norm, c = p.norm(p.inner), conv3d(p.inner, p.width, (1, 1, 1))
    return chain(
        a=chain(**before, **a),
        b=chain(norm=b_norm, act=relu(), conv=b),
        c=chain(norm=c_norm, act=relu(), conv=c),
    )


RESIDUALS: dict[str, Callable[[BlockPlan], nn.Module]] = {
    "basic_transformation": basic,
    "basic_r2plus1d_transformation": basic_r2plus1d,
    "postactivated_bottleneck_transformation": postactivated_bottleneck,
    "preactivated_bottleneck_transformation": preactivated_bottleneck,
}


def shortcut(p: BlockPlan) -> nn.Module:
    """A 1x1 convolution where shapes change, its norm behind it or (with ReLU) before it."""
    if p.width_in == p.width and p.stride == (1, 1, 1):
        return nn.Identity()
    if p.skip == "postactivated_shortcut":
        return chain(conv=conv3d(p.width_in, p.width, (1, 1, 1), p.stride), norm=p.norm(p.width))
    before = {} if p.first else {"norm": p.norm(p.width_in), "act": relu()}
    return chain(**before, conv=conv3d(p.width_in, p.width, (1, 1, 1), p.stride))


class ResBlock3D(nn.Module):
    """A residual branch and a shortcut; ReLU behind their sum."""

    def __init__(self, p: BlockPlan) -> None:
        super().__init__()
        self.skip = shortcut(p)
        self.residual = RESIDUALS[p.residual](p)
        self.drop = StochasticDepth(p.drop)
        self.activation = relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.drop(self.residual(x)) + self.skip(x))
