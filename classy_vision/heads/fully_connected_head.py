"""A linear classifier on pooled features."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema
from torch import Tensor, nn
from torch.nn.functional import normalize

from classy_vision.config import ConfigError, PositiveInt, Probability
from classy_vision.heads.classy_head import check_choice, register_head
from classy_vision.heads.pooled_head import PooledHead
from classy_vision.heads.pooling import POOLINGS, Pooling
from classy_vision.layers.activation import ActivationType, new_activation
from classy_vision.weights.layout import Layout

NORMALIZE_L2 = "l2"
Activation = Annotated[ActivationType, Field(strict=False)] | SkipJsonSchema[nn.Module] | None


@register_head("fully_connected")
class FullyConnectedHead(PooledHead):
    """Optional 1x1 convolution, norm and activation; pooling; optional L2; linear.

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
        pooling: "mean" over positions, or over patches; "token", "token_and_mean", "max", "gem" or
            "attention": see ``classy_vision.heads.pooling.Pool``.
        trunk_norm: read inner layers of a vision transformer through the trunk's last norm.
        dropout_rate: part of the pooled features that training drops.

    Raises:
        ConfigError: ``zero_init_bias`` without ``num_classes``.
    """

    classifier = "fc"
    published: ClassVar = {"transformers_dinov2": Layout([("classifier", "fc")])}

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
        pooling: Pooling = "mean",
        trunk_norm: bool = True,
    ) -> None:
        super().__init__(unique_id, num_classes)
        if zero_init_bias and num_classes is None:
            raise ConfigError("zero_init_bias needs num_classes: there is no bias without them")
        self.conv_planes = conv_planes
        self.zero_init_bias = zero_init_bias
        check_choice("normalize_inputs", normalize_inputs, (None, NORMALIZE_L2))
        self.normalize_inputs = normalize_inputs
        check_choice("pooling", pooling, POOLINGS)
        self.poolings = (pooling,)
        self.trunk_norm = trunk_norm
        self.dropout = nn.Dropout(dropout_rate)
        if conv_planes is not None:
            act = activation or ActivationType.RELU
            self.activation = act if isinstance(act, nn.Module) else new_activation(act)
        if in_plane is not None:
            self.build(in_plane)

    @property
    def pools_first(self) -> bool:
        return self.conv_planes is None

    def build(self, in_plane: int) -> None:
        self.in_plane = in_plane
        if self.conv_planes is not None:
            self.conv = nn.Conv2d(in_plane, self.conv_planes, 1, bias=False)
            self.bn = nn.BatchNorm2d(self.conv_planes)
        width = self.make_pools([self.conv_planes or in_plane])
        if self.num_classes is not None:
            self.fc = nn.Linear(width, self.num_classes)
            if self.zero_init_bias:
                nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv_planes is not None:
            x = self.activation(self.bn(self.conv(x)))
        (x,) = self.pooled(x)
        if self.normalize_inputs == NORMALIZE_L2:
            x = normalize(x, dim=1)
        return x if self.num_classes is None else self.fc(self.dropout(x))
