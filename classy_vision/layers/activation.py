"""Activations by their name in configs."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.config import Choice
from classy_vision.layers.eager import is_eager, needs_gradient


class ActivationType(Choice):
    """The activations that a config can name."""

    RELU = "relu"
    SILU = "silu"
    RELU6 = "relu6"
    HARDSWISH = "hardswish"
    GELU = "gelu"


class SiLU(nn.SiLU):
    """A SiLU that works in place only where no gradient is wanted: autograd keeps a copy of what it overwrites,
    which costs a pass over memory and saves nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x, inplace=self.inplace and not (is_eager(x) and needs_gradient(x)))


class Hardswish(nn.Hardswish):
    """A hard swish that works in place only where no gradient is wanted, as ``SiLU`` does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(x, inplace=self.inplace and not (is_eager(x) and needs_gradient(x)))


class ReLU6(nn.ReLU6):
    """A ReLU6 that works in place only where no gradient is wanted, as ``SiLU`` does."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x, inplace=self.inplace and not (is_eager(x) and needs_gradient(x)))


_CLASSES: dict[ActivationType, type[nn.Module]] = {
    ActivationType.RELU: nn.ReLU,
    ActivationType.SILU: SiLU,
    ActivationType.RELU6: ReLU6,
    ActivationType.HARDSWISH: Hardswish,
    ActivationType.GELU: nn.GELU,
}


def new_activation(kind: ActivationType | str, inplace: bool = True) -> nn.Module:
    """A new activation module. One that works in place is only for what nothing else reads."""
    cls = _CLASSES[ActivationType(kind)]
    return cls() if cls is nn.GELU else cls(inplace=inplace)  # which has no such form


def activation_name(module: nn.Module) -> str | None:
    """The name for which ``new_activation`` makes such a module; None if there is none."""
    if isinstance(module, nn.GELU) and module.approximate != "none":
        return None
    kinds = {cls: kind for kind, own in _CLASSES.items() for cls in (own, getattr(nn, own.__name__))}
    kind = kinds.get(type(module))
    return kind and kind.value
