"""Pooling by attention: learned queries that look at all tokens.

Axes: n batch, s tokens, q queries, c width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.config import ConfigError

AttentionStyle = Literal["siglip", "vjepa2"]
MLPKind = Literal["gelu", "gelu_tanh"]
EPS = 1e-6


class MLP(nn.Module):
    """Linear, GELU, linear. Shape: (..., c), unchanged."""

    def __init__(self, width: int, hidden: int, activation: MLPKind) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU("tanh" if activation == "gelu_tanh" else "none")
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class SelfAttentionLayer(nn.Module):
    """A pre-norm layer of a transformer. Shape: (n, s, c), unchanged."""

    def __init__(self, width: int, num_heads: int, hidden: int, activation: MLPKind) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width, EPS)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, EPS)
        self.mlp = MLP(width, hidden, activation)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, 2)
        x = x + self.proj(attend(q, k, v, self.num_heads))
        return x + self.mlp(self.norm2(x))


class AttentionPool(nn.Module):
    """Queries look at all tokens, after ``depth - 1`` layers of self-attention; an MLP; the mean over queries.

    "siglip" is the pooling of SigLIP (Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023; of
    Zhai et al., "Scaling Vision Transformers", 2022, appendix), "vjepa2" that of V-JEPA 2's attentive probe
    (Assran et al., "V-JEPA 2", 2025): it norms what it looks at, adds the query to what it finds, and has no
    projection in between.

    Shape: (n, s, c) to (n, c).

    Args:
        width: c.
        num_heads: of attention; divides c.
        depth: layers, the one with the queries included.
        num_queries: q.
        mlp_ratio: inner width of the MLPs, as a multiple of c.
        style: see above.
        activation: of the MLPs: "gelu" or its approximation, "gelu_tanh".
        eps: of the norms.

    Raises:
        ConfigError: ``num_heads`` does not divide the width.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        depth: int = 1,
        num_queries: int = 1,
        mlp_ratio: float = 4.0,
        style: AttentionStyle = "siglip",
        activation: MLPKind = "gelu",
        eps: float = EPS,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ConfigError(f"num_heads = {num_heads} does not divide the {width} channels of the block")
        hidden = round(width * mlp_ratio)
        self.num_heads = num_heads
        self.adds_query = style == "vjepa2"
        self.query = nn.Parameter(torch.empty(1, num_queries, width))
        self.layers = nn.ModuleList(
            SelfAttentionLayer(width, num_heads, hidden, activation) for _ in range(depth - 1)
        )
        self.norm_inputs = nn.LayerNorm(width, eps) if self.adds_query else None
        self.width = width
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # as in nn.MultiheadAttention
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.proj = None if self.adds_query else nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, hidden, activation)
        self._initialize(width)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        if self.norm_inputs is not None:
            x = self.norm_inputs(x)
        query = self.query.expand(x.shape[0], -1, -1)
        c, weight, bias = self.width, self.in_proj_weight, self.in_proj_bias
        q = F.linear(query, weight[:c], bias[:c])
        k, v = F.linear(x, weight[c:], bias[c:]).chunk(2, 2)
        found = attend(q, k, v, self.num_heads)
        if self.proj is not None:
            found = self.proj(found)
        if self.adds_query:
            found = query + found
        found = found + self.mlp(self.norm(found))
        return found.mean(1)

    def _initialize(self, width: int) -> None:
        """As in vision transformers: weights of a truncated normal distribution, biases of zero."""
        nn.init.trunc_normal_(self.query, std=width**-0.5)
        nn.init.trunc_normal_(self.in_proj_weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Attention of several heads. Shapes: (n, q, c), (n, s, c), (n, s, c) to (n, q, c)."""
    n, width = q.shape[0], q.shape[2] // num_heads
    q, k, v = (part.reshape(n, -1, num_heads, width).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
