"""A classifier on what learned queries find in the tokens or positions of a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
import torch.fx
from pydantic import Field
from torch import Tensor, nn

from classy_vision.config import PositiveFloat, PositiveInt, Probability
from classy_vision.heads.classy_head import ClassyHead, register_head
from classy_vision.heads.pooling import as_tokens, find_num_heads
from classy_vision.layers.attention_pool import AttentionPool, AttentionStyle, MLPKind
from classy_vision.weights.key_map import JOIN_QKV, Row, Transform
from classy_vision.weights.layout import Layout

torch.fx.wrap("as_tokens")


def _join(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _split(tensor: Tensor) -> tuple[Tensor, ...]:
    query, *others = tensor.chunk(3)
    return query, torch.cat(others)


_JOIN_Q_KV = Transform(_join, _split, "query, key and value joined")


def _join_in(theirs: Sequence[str], ours: str, transform: Transform) -> list[Row]:
    """Rows for the weights and biases of projections that are one here, ``in_proj``."""
    parts = ("weight", "bias")
    return [(tuple(f"{name}.{part}" for name in theirs), f"{ours}_{part}", transform) for part in parts]


TIMM: list[Row] = [
    ("attn_pool.latent", "pool.query"),
    *_join_in(("attn_pool.q", "attn_pool.kv"), "pool.in_proj", _JOIN_Q_KV),
    *((f"attn_pool.{name}", f"pool.{name}") for name in ("proj", "norm", "mlp")),
]
SIGLIP: list[Row] = [
    ("vision_model.head.probe", "pool.query"),
    ("vision_model.head.attention.in_proj_weight", "pool.in_proj_weight"),
    ("vision_model.head.attention.in_proj_bias", "pool.in_proj_bias"),
    ("vision_model.head.attention.out_proj", "pool.proj"),
    ("vision_model.head.layernorm", "pool.norm"),
    ("vision_model.head.mlp", "pool.mlp"),
    ("classifier", "fc"),
]
_CROSS, _SELF = "pooler.cross_attention_layer", "pooler.self_attention_layers.{i}"
_QKV = ("q_proj", "k_proj", "v_proj")
_VJEPA2: list[Row] = [
    ("pooler.query_tokens", "pool.query"),
    (f"{_CROSS}.layer_norm1", "pool.norm_inputs"),
    *_join_in([f"{_CROSS}.cross_attn.{name}" for name in _QKV], "pool.in_proj", JOIN_QKV),
    (f"{_CROSS}.layer_norm2", "pool.norm"),
    (f"{_CROSS}.mlp", "pool.mlp"),
    (f"{_SELF}.layer_norm1", "pool.layers.{i}.norm1"),
    (tuple(f"{_SELF}.self_attn.{name}" for name in _QKV), "pool.layers.{i}.qkv", JOIN_QKV),
    (f"{_SELF}.self_attn.out_proj", "pool.layers.{i}.proj"),
    (f"{_SELF}.layer_norm2", "pool.layers.{i}.norm2"),
    (f"{_SELF}.mlp", "pool.layers.{i}.mlp"),
    ("classifier", "fc"),
]


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
    published: ClassVar = {
        "timm": Layout(TIMM),
        "transformers_siglip": Layout(SIGLIP, [("head", "vision_model.head")]),
        "transformers_vjepa2": Layout(_VJEPA2),
    }

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
