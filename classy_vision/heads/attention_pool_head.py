"""A classifier on what learned queries find in the tokens or positions of a block."""

from __future__ import annotations

from typing import Annotated

import torch.fx
from pydantic import Field
from torch import Tensor, nn

from classy_vision.config import PositiveFloat, PositiveInt, Probability
from classy_vision.heads.classy_head import ClassyHead, register_head
from classy_vision.heads.pooling import as_tokens, find_num_heads
from classy_vision.layers.attention_pool import AttentionPool, AttentionStyle, MLPKind

torch.fx.wrap("as_tokens")


@register_head("attention_pool")
class AttentionPoolHead(ClassyHead):
    """Attention of learned queries over all tokens, or all positions of a map or clip; linear.

    With ``style: siglip`` the pooling of SigLIP, with ``depth: 4`` and ``style: vjepa2`` the attentive probe
    of V-JEPA 2; see ``classy_vision.layers.attention_pool.AttentionPool``.

    Shape: features of any kind to (n, num_classes).

    Args:
        unique_id: the head's name.
        num_classes: the number of logits; None gives the pooled vector, (n, c).
        in_plane: channels of the block; taken from the block if it is left out.
        num_heads: of attention; divides the channels. By default each has 64 channels at most.
        depth: layers; all but the last are self-attention.
        num_queries: learned queries, whose answers are averaged.
        mlp_ratio: inner width of the MLPs, as a multiple of the channels.
        style: "siglip" or "vjepa2".
        activation: of the MLPs: "gelu" or "gelu_tanh".
        trunk_norm: read inner layers of a vision transformer through the trunk's last norm.
        dropout_rate: part of the pooled vector that training drops.
    """

    classifier = "fc"

    def __init__(
        self,
        unique_id: str | int | None = None,
        num_classes: PositiveInt | None = None,
        in_plane: PositiveInt | None = None,
        num_heads: PositiveInt | None = None,
        depth: Annotated[int, Field(ge=1, le=4)] = 1,
        num_queries: PositiveInt = 1,
        mlp_ratio: PositiveFloat = 4.0,
        style: AttentionStyle = "siglip",
        activation: MLPKind = "gelu",
        trunk_norm: bool = True,
        dropout_rate: Probability = 0.0,
    ) -> None:
        super().__init__(unique_id, num_classes)
        self.num_heads = num_heads
        self.options = (depth, num_queries, mlp_ratio, style, activation)
        self.trunk_norm = trunk_norm
        self.dropout = nn.Dropout(dropout_rate)
        if in_plane is not None:
            self.build(in_plane)

    def build(self, in_plane: int) -> None:
        self.in_plane = in_plane
        self.pool = AttentionPool(in_plane, self.num_heads or find_num_heads(in_plane), *self.options)
        if self.num_classes is not None:
            self.fc = nn.Linear(in_plane, self.num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(as_tokens(x))
        return x if self.num_classes is None else self.fc(self.dropout(x))
