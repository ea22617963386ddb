"""Activations by their name in configs."""

from __future__ import annotations

from torch import nn

from classy_vision.config import Choice


class ActivationType(Choice):
    """The activations that a config can name."""

    RELU = "relu"
    SILU = "silu"


_CLASSES: dict[ActivationType, type[nn.Module]] = {
    ActivationType.RELU: nn.ReLU,
    ActivationType.SILU: nn.SiLU,
}


def new_activation(kind: ActivationType | str, inplace: bool = True) -> nn.Module:
    """A new activation module. One that works in place is only for what nothing else reads."""
    return _CLASSES[ActivationType(kind)](inplace=inplace)
