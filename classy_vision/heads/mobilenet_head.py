"""The classifier of Howard et al., "Searching for MobileNetV3", 2019, section 5.1."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from classy_vision.config import PositiveInt, Probability
from classy_vision.heads.classy_head import register_head
from classy_vision.heads.pooled_head import PooledHead
from classy_vision.layers.activation import ActivationType, new_activation


@register_head("mobilenet_head")
class MobileNetHead(PooledHead):
    """Mean over positions; hidden layer; optional norm; activation; linear.

    Shape: (n, c, h, w), (n, c, t, h, w), tokens (n, s, c) or (n, c) to (n, num_classes).

    Args:
        unique_id: the head's name.
        num_classes: the number of logits; None gives the hidden features, (n, hidden_dim).
        in_plane: channels of the block; taken from the block if it is left out.
        hidden_dim: width of the hidden layer.
        activation: after it: "relu", "relu6", "silu", "hardswish" or "gelu".
        bias: whether it has one.
        norm: a batch norm between it and the activation.
        dropout_rate: part of the hidden features that training drops.
    """

    classifier = "fc"

    def __init__(
        self,
        unique_id: str | int | None = None,
        num_classes: PositiveInt | None = None,
        in_plane: PositiveInt | None = None,
        hidden_dim: PositiveInt = 1280,
        activation: Annotated[ActivationType, Field(strict=False)] = ActivationType.HARDSWISH,
        bias: bool = True,
        norm: bool = False,
        dropout_rate: Probability = 0.0,
    ) -> None:
        super().__init__(unique_id, num_classes)
        self.hidden_dim = hidden_dim
        self.has_bias = bias
        self.norm = nn.BatchNorm1d(hidden_dim) if norm else nn.Identity()
        self.activation = new_activation(activation)
        self.dropout = nn.Dropout(dropout_rate)
        if in_plane is not None:
            self.build(in_plane)

    @property
    def pools_first(self) -> bool:
        return True

    def build(self, in_plane: int) -> None:
        self.in_plane = in_plane
        self.make_pools([in_plane])
        self.hidden = nn.Linear(in_plane, self.hidden_dim, self.has_bias)
        if self.num_classes is not None:
            self.fc = nn.Linear(self.hidden_dim, self.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.hidden(self.pooled(x)[0])))
        return x if self.num_classes is None else self.fc(self.dropout(x))
