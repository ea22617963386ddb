"""Activations by their name in configs."""

from __future__ import annotations

from enum import Enum

from torch import nn


class ActivationType(str, Enum):
    """The activations a config can name, in any case."""

    RELU = "relu"
    SILU = "silu"

    @classmethod
    def _missing_(cls, value: object) -> ActivationType | None:
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None


_CLASSES: dict[ActivationType, type[nn.Module]] = {
    ActivationType.RELU: nn.ReLU,
    ActivationType.SILU: nn.SiLU,
}


def new_activation(kind: ActivationType | str) -> nn.Module:
    """A new activation module. It works in place: give it only what nothing else reads."""
    return _CLASSES[ActivationType(kind)](inplace=True)
