"""A linear classifier on pooled features."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.fx
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from torch import Tensor, nn
from torch.nn.functional import normalize

from classy_vision.config import ConfigError, PositiveInt, Probability
from classy_vision.heads.classy_head import ClassyHead, check_choice, pool, register_head
from classy_vision.layers.activation import ActivationType, new_activation

NORMALIZE_L2 = "l2"
Activation = Annotated[ActivationType, Field(strict=False)] | SkipJsonSchema[nn.Module] | None
torch.fx.wrap("pool")


@register_head("fully_connected")
class FullyConnectedHead(ClassyHead):
    """Optional 1x1 convolution, norm and activation; mean over positions; optional L2; linear.

    Shape: (n, c, h, w), (n, c, t, h, w), tokens (n, s, c) or (n, c) to (n, num_classes). The
    1x1 convolution takes (n, c, h, w) only.

    Args:
        unique_id: the head's name.
        num_classes: the number of logits; None gives the pooled features, (n, c).
        in_plane: channels of the block; taken from the block if it is left out.
        conv_planes: width of a 1x1 convolution before the pooling, as in RegNetZ.
        activation: after that convolution: by its name, or a module.
        zero_init_bias: start from a bias of zero.
        normalize_inputs: "l2" scales the pooled features to length 1.
        dropout_rate: part of the pooled features that training drops.

    Raises:
        ConfigError: ``zero_init_bias`` without ``num_classes``.
    """

    classifier = "fc"

    def __init__(
        self,
        unique_id: str | int | None = None,
        num_classes: PositiveInt | None = None,
        in_plane: PositiveInt | None = None,
        conv_planes: PositiveInt | None = None,
        activation: Activation = ActivationType.RELU,
        zero_init_bias: bool = False,
        normalize_inputs: Literal["l2"] | None = None,
        dropout_rate: Probability = 0.0,
    ) -> None:
        super().__init__(unique_id, num_classes)
        if zero_init_bias and num_classes is None:
            raise ConfigError("zero_init_bias needs num_classes: there is no bias without them")
        self.conv_planes = conv_planes
        self.zero_init_bias = zero_init_bias
        check_choice("normalize_inputs", normalize_inputs, (None, NORMALIZE_L2))
        self.normalize_inputs = normalize_inputs
        self.dropout = nn.Dropout(dropout_rate)
        if conv_planes is not None:
            act = activation or ActivationType.RELU
            self.activation = act if isinstance(act, nn.Module) else new_activation(act)
        if in_plane is not None:
            self.build(in_plane)

    def build(self, in_plane: int) -> None:
        self.in_plane = in_plane
        if self.conv_planes is not None:
            self.conv = nn.Conv2d(in_plane, self.conv_planes, 1, bias=False)
            self.bn = nn.BatchNorm2d(self.conv_planes)
        if self.num_classes is not None:
            self.fc = nn.Linear(self.conv_planes or in_plane, self.num_classes)
            if self.zero_init_bias:
                nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv_planes is not None:
            x = self.activation(self.bn(self.conv(x)))
        x = pool(x)
        if self.normalize_inputs == NORMALIZE_L2:
            x = normalize(x, dim=1)
        return x if self.num_classes is None else self.fc(self.dropout(x))
