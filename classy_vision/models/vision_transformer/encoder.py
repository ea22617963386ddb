"""Layers of transformer encoders (Vaswani et al., "Attention Is All You Need", 2017).

Axes: n batch, s tokens, d width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from typing_extensions import Self

from classy_vision.config import Config, PositiveFloat, PositiveInt, Probability
from classy_vision.layers.initialize import bare_linear
from classy_vision.layers.stochastic_depth import StochasticDepth

AttentionType = Literal["softmax", "differential"]
MLPActivation = Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]


class EncoderConfig(Config):
    """A transformer encoder.

    Attributes:
        num_heads: of attention; divides ``hidden_dim``.
        hidden_dim: width of tokens.
        mlp_dim: inner width of the MLPs: what their last layer reads.
        dropout_rate: after embeddings, attention and each linear layer of the MLP.
        attention_dropout_rate: on attention weights.
        layer_norm_eps: of all norms.
        qkv_bias: queries, keys and values have biases.
        qk_norm: norms on the queries and keys of each head.
        attention: "softmax", or "differential", the difference of two (Ye et al., "Differential
            Transformer", 2025).
        layer_scale: what a learned factor for each channel of a branch starts at (Touvron et al.,
            "Going deeper with Image Transformers", 2021, section 2); null for none.
        activation: of the MLPs. "swiglu" doubles the width of their first layer.
    """

    num_heads: PositiveInt
    hidden_dim: PositiveInt
    mlp_dim: PositiveInt
    dropout_rate: Probability = 0.0
    attention_dropout_rate: Probability = 0.0
    layer_norm_eps: PositiveFloat = 1e-6
    qkv_bias: bool = True
    qk_norm: bool = False
    attention: AttentionType = "softmax"
    layer_scale: PositiveFloat | None = None
    activation: MLPActivation = "gelu"

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"num_heads = {self.num_heads} must divide hidden_dim = {self.hidden_dim}")
        if self.attention == "differential" and self.hidden_dim // self.num_heads % 2:
            raise ValueError(
                f"attention = 'differential' halves heads: num_heads = {self.num_heads} must divide "
                f"hidden_dim = {self.hidden_dim} into even parts"
            )
        return self

    def norm(self) -> nn.LayerNorm:
        """A norm over the width of tokens."""
        return nn.LayerNorm(self.hidden_dim, self.layer_norm_eps)


class Attention(nn.Module):
    """Multi-head self-attention. Shape: (n, s, d), unchanged.

    No (s, s) tensor is kept, so that memory grows with s, not with its square; on the CPU this
    ends with ``dropout``, for which torch has no such kernel.

    Args:
        width: d.
        heads: number of heads; divides d.
        dropout: rate, on attention weights.
        qkv_bias: queries, keys and values have biases.
        qk_norm_eps: queries and keys are normed in each head with this epsilon (Dehghani et al.,
            "Scaling Vision Transformers to 22 Billion Parameters", 2023); None leaves them as they are.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        qkv_bias: bool = True,
        qk_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = bare_linear(width, 3 * width, qkv_bias)
        self.q_norm = None if qk_norm_eps is None else nn.LayerNorm(width // heads, qk_norm_eps)
        self.k_norm = None if qk_norm_eps is None else nn.LayerNorm(width // heads, qk_norm_eps)
        self.proj = nn.Linear(width, width)
        _initialize(self.qkv, self.proj)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, 2)  # along the last axis: their gradients are joined in one copy
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.proj(x.transpose(1, 2).flatten(2))


class DifferentialAttention(nn.Module):
    """The difference of two attentions, each with half of a head's queries and keys (Ye et al.,
    "Differential Transformer", 2025, section 2.1). Shape: (n, s, d), unchanged.

    Args:
        width: d.
        heads: number of heads; divides d into even parts.
        dropout: rate, on attention weights.
        qkv_bias: queries, keys and values have biases.
        qk_norm_eps: as of ``Attention``.
        layer: number of the layer, from 0; later ones begin with a larger part of the second.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        qkv_bias: bool = True,
        qk_norm_eps: float | None = None,
        layer: int = 0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer)
        half = width // heads // 2
        self.qkv = bare_linear(width, 3 * width, qkv_bias)
        self.q_norm = None if qk_norm_eps is None else nn.LayerNorm(half, qk_norm_eps)
        self.k_norm = None if qk_norm_eps is None else nn.LayerNorm(half, qk_norm_eps)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(nn.init.normal_(torch.empty(half), std=0.1)) for _ in range(4)
        )
        self.sub_norm = nn.RMSNorm(2 * half, eps=1e-5)
        self.proj = nn.Linear(width, width)
        _initialize(self.qkv, self.proj)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, 2)
        q, k = (part.unflatten(2, (2 * self.heads, -1)).transpose(1, 2) for part in (q, k))
        v = v.unflatten(2, (self.heads, -1)).transpose(1, 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        dropout = self.dropout if self.training else 0.0
        first, second = (
            F.scaled_dot_product_attention(q[:, i::2], k[:, i::2], v, dropout_p=dropout) for i in (0, 1)
        )
        x = self.sub_norm(first - self._lambda() * second) * (1.0 - self.lambda_init)
        return self.proj(x.transpose(1, 2).flatten(2))

    def _lambda(self) -> Tensor:
        first = (self.lambda_q1 * self.lambda_k1).sum().exp()
        return first - (self.lambda_q2 * self.lambda_k2).sum().exp() + self.lambda_init


def _initialize(qkv: nn.Linear, proj: nn.Linear) -> None:
    nn.init.xavier_uniform_(qkv.weight)
    for layer in (qkv, proj):
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class MLP(nn.Module):
    """Linear, activation, linear. Shape: (n, s, d), unchanged.

    Args:
        width: d.
        inner: width after the activation.
        dropout: rate, after the activation and at the end.
        activation: "gelu", its approximations "gelu_tanh" and "quick_gelu" (x * sigmoid(1.702 x),
            that of OpenAI's CLIP), or "swiglu" (Shazeer, "GLU Variants Improve Transformer", 2020):
            ``fc1`` gives 2 * inner channels then, and SiLU of the first half gates the second.
    """

    def __init__(
        self, width: int, inner: int, dropout: float = 0.0, activation: MLPActivation = "gelu"
    ) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = bare_linear(width, 2 * inner if activation == "swiglu" else inner)
        self.fc2 = bare_linear(inner, width)
        self.dropout = nn.Dropout(dropout) if dropout else None
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = _ACTIVATIONS[self.activation](self.fc1(x))
        x = self.fc2(x if self.dropout is None else self.dropout(x))
        return x if self.dropout is None else self.dropout(x)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


_ACTIVATIONS: dict[MLPActivation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "swiglu": _swiglu,
}


class EncoderLayer(nn.Module):
    """Norm, attention; norm, MLP; each added to its input. Shape: (n, s, d), unchanged.

    Args:
        c: what all layers of the encoder share.
        stochastic_depth: rate at which a branch is dropped in training.
        layer: its number, from 0.
    """

    def __init__(self, c: EncoderConfig, stochastic_depth: float = 0.0, layer: int = 0) -> None:
        super().__init__()
        self.norm1 = c.norm()
        self.attn = _attention(c, layer)
        self.norm2 = c.norm()
        self.mlp = MLP(c.hidden_dim, c.mlp_dim, c.dropout_rate, c.activation)
        self.scale1, self.scale2 = _layer_scale(c), _layer_scale(c)
        # What does nothing is left out: a call of a module costs more than small layers can spare.
        self.dropout = nn.Dropout(c.dropout_rate) if c.dropout_rate else None
        self.drop = StochasticDepth(stochastic_depth) if stochastic_depth else None

    def forward(self, x: Tensor) -> Tensor:
        branch = self.attn(self.norm1(x))
        x = self._add(x, branch if self.dropout is None else self.dropout(branch), self.scale1)
        return self._add(x, self.mlp(self.norm2(x)), self.scale2)

    def _add(self, x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
        if self.drop is not None:
            branch = self.drop(branch)
        return x + branch if scale is None else torch.addcmul(x, branch, scale)


def _attention(c: EncoderConfig, layer: int) -> Attention | DifferentialAttention:
    qk_norm_eps = c.layer_norm_eps if c.qk_norm else None
    if c.attention == "softmax":
        return Attention(c.hidden_dim, c.num_heads, c.attention_dropout_rate, c.qkv_bias, qk_norm_eps)
    return DifferentialAttention(
        c.hidden_dim, c.num_heads, c.attention_dropout_rate, c.qkv_bias, qk_norm_eps, layer
    )


def _layer_scale(c: EncoderConfig) -> nn.Parameter | None:
    return None if c.layer_scale is None else nn.Parameter(torch.full((c.hidden_dim,), c.layer_scale))
