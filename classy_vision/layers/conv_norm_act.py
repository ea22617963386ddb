"""Convolution, batch norm, activation: what the convolutional families are made of."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.layers.activation import ActivationType, new_activation


class ConvNormAct(nn.Sequential):
    """A convolution without bias, then a norm and an activation where given.

    Padding is symmetric, ``kernel // 2``: a stride of 1 keeps the size.

    Shape: (n, channels_in, h, w) to (n, channels_out, ceil(h / stride), ceil(w / stride)).
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None, act: nn.Module | None) -> None:
        parts = {"conv": conv, "norm": norm, "act": act}
        super().__init__(OrderedDict((name, part) for name, part in parts.items() if part is not None))


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": to ceil(size / stride), more at the far side."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.pads(x))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def pads(self, x: Tensor) -> list[int]:
        """The padding at the left, right, top and bottom."""
        pads: list[int] = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1]):
            pad = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [pad // 2, pad - pad // 2]
        return pads


@dataclass(frozen=True)
class ConvFactory:
    """Makes the convolutions of one network, which share their norm and activation.

    Attributes:
        activation: after each norm.
        bn_epsilon, bn_momentum: of the batch norms.
        same_padding: pad as TensorFlow does, instead of symmetrically.
        groups_in_norms: use group norms with so many groups in place of batch norms.
    """

    activation: ActivationType
    bn_epsilon: float
    bn_momentum: float
    same_padding: bool = False
    groups_in_norms: int | None = None

    def __call__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: bool = True,
    ) -> ConvNormAct:
        if any(channels % max(1, groups) for channels in (channels_in, channels_out)):
            raise ValueError(f"{groups} groups do not divide {channels_in} and {channels_out} channels")
        conv = SameConv2d if self.same_padding else nn.Conv2d
        return ConvNormAct(
            conv(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            self.norm(channels_out) if norm else None,
            self.act() if act else None,
        )

    def stem(self, channels_in: int, channels_out: int, kernel: int, stride: int, pool: bool) -> ConvNormAct:
        """The first convolution of a network, and a 3x3 max pool of stride 2 where asked for."""
        stem = self(channels_in, channels_out, kernel, stride)
        if pool:
            stem.add_module("pool", nn.MaxPool2d(3, 2, 1))
        return stem

    def norm(self, channels: int) -> nn.Module:
        if self.groups_in_norms is not None:
            if channels % self.groups_in_norms:
                raise ValueError(
                    f"a group norm of {self.groups_in_norms} groups cannot take {channels} channels"
                )
            return nn.GroupNorm(self.groups_in_norms, channels, self.bn_epsilon)
        return nn.BatchNorm2d(channels, self.bn_epsilon, self.bn_momentum)

    def act(self) -> nn.Module:
        return new_activation(self.activation)


def sequential(**parts: nn.Module) -> nn.Sequential:
    """The parts one after the other, by name."""
    return nn.Sequential(OrderedDict(parts))
