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


def new_activation(kind: ActivationType | str) -> nn.Module:
    """A new activation module. It works in place: give it only what nothing else reads."""
    return _CLASSES[ActivationType(kind)](inplace=True)
