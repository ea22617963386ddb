"""Convolution, batch norm, activation: the brick of the convolutional families."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from classy_vision.layers.activation import ActivationType, new_activation


class ConvNormAct(nn.Sequential):
    """A convolution without bias, and behind it a norm and an activation where given.

    Padding is symmetric, ``kernel // 2``: a stride of 1 keeps the size.

    Shape: (n, channels_in, h, w) to (n, channels_out, ceil(h / stride), ceil(w / stride)).
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.Module | None, act: nn.Module | None) -> None:
        parts = {"conv": conv, "norm": norm, "act": act}
        super().__init__(OrderedDict((name, part) for name, part in parts.items() if part is not None))


@dataclass(frozen=True)
class Bricks:
    """Makes the convolutions of one network, which share their norm and activation.

    Attributes:
        activation: behind each norm.
        bn_epsilon, bn_momentum: of the batch norms.
    """

    activation: ActivationType
    bn_epsilon: float
    bn_momentum: float

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
        return ConvNormAct(
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels_out, self.bn_epsilon, self.bn_momentum) if norm else None,
            self.act() if act else None,
        )

    def act(self) -> nn.Module:
        return new_activation(self.activation)


def chain(**parts: nn.Module) -> nn.Sequential:
    """The parts one after the other, by name."""
    return nn.Sequential(OrderedDict(parts))
