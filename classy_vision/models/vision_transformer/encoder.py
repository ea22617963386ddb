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
from classy_vision.models.vision_transformer.rotary import RotaryConfig, rotate

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
        norm_type: "layer", or "rms" norms (Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019).
        norm_after: norms follow attention and MLP, in their branches, and do not precede them.
        qkv_bias: queries, keys and values have biases; "qv" leaves out that of the keys.
        qk_norm: norms on the queries and keys of each head.
        attention_norm, mlp_norm: one more norm before the last layer of attention, and of the MLP.
        linear_bias: the last layer of attention and the MLPs have biases.
        rotary: positions rotate queries and keys; see there.
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
    norm_type: Literal["layer", "rms"] = "layer"
    norm_after: bool = False
    qkv_bias: bool | Literal["qv"] = True
    qk_norm: bool = False
    attention_norm: bool = False
    mlp_norm: bool = False
    linear_bias: bool = True
    rotary: RotaryConfig | None = None
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
        plain = (self.qkv_bias != "qv", not self.attention_norm, self.linear_bias, self.rotary is None)
        if self.attention == "differential" and not all(plain):
            raise ValueError(
                "attention = 'differential' goes without qkv_bias = 'qv', attention_norm, linear_bias = False "
                "and rotary"
            )
        if self.rotary is not None and self.hidden_dim // self.num_heads % 4:
            raise ValueError(
                f"rotary needs heads whose width is a multiple of 4, not {self.hidden_dim // self.num_heads}"
            )
        return self

    def norm(self, width: int | None = None, eps: float | None = None) -> nn.Module:
        """A norm over the width of tokens, or another one."""
        kind = nn.LayerNorm if self.norm_type == "layer" else nn.RMSNorm
        return kind(width or self.hidden_dim, eps=eps or self.layer_norm_eps)


class LinearWithBias(nn.Linear):
    """A linear layer whose bias comes with its input, so that it can be wrapped as any other."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:  # type: ignore[override]  # without a bias of its own
        return F.linear(x, self.weight, bias)


class Attention(nn.Module):
    """Multi-head self-attention. Shape: (n, s, d), unchanged.

    No (s, s) tensor is kept, so that memory grows with s, not with its square; on the CPU this
    ends with ``dropout``, for which torch has no such kernel.

    Args:
        c: of the encoder. Queries and keys may be normed in each head (Dehghani et al., "Scaling Vision
            Transformers to 22 Billion Parameters", 2023).
    """

    def __init__(self, c: EncoderConfig) -> None:
        super().__init__()
        width = c.hidden_dim
        self.heads = c.num_heads
        self.dropout = c.attention_dropout_rate
        self.halves = c.rotary is not None and c.rotary.halves
        kind = LinearWithBias if c.qkv_bias == "qv" else nn.Linear
        self.qkv = bare_linear(width, 3 * width, c.qkv_bias is True, kind)
        self.q_bias = nn.Parameter(torch.zeros(width)) if c.qkv_bias == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if c.qkv_bias == "qv" else None
        self.q_norm = c.norm(width // c.num_heads) if c.qk_norm else None
        self.k_norm = c.norm(width // c.num_heads) if c.qk_norm else None
        self.norm = c.norm() if c.attention_norm else None
        self.proj = nn.Linear(width, width, c.linear_bias)
        _initialize(self.qkv, self.proj)

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        q, k, v = self._project(x).chunk(3, 2)  # along the last axis: their gradients are joined in one copy
        shape = (x.shape[0], x.shape[1], self.heads, -1)
        q, k, v = (part.reshape(shape).transpose(1, 2) for part in (q, k, v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation, self.halves), rotate(k, rotation, self.halves)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        x = x.transpose(1, 2).flatten(2)
        return self.proj(x if self.norm is None else self.norm(x))

    def _project(self, x: Tensor) -> Tensor:
        if self.q_bias is None or self.v_bias is None:
            qkv: Tensor = self.qkv(x)
            return qkv
        return self.qkv(x, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]))


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
        c: of the encoder. The activation is "gelu", one of its approximations "gelu_tanh" and "quick_gelu"
            (x * sigmoid(1.702 x), that of OpenAI's CLIP), or "swiglu" (Shazeer, "GLU Variants Improve
            Transformer", 2020): ``fc1`` gives 2 * ``mlp_dim`` channels then, and SiLU of the first half gates
            the second.
    """

    def __init__(self, c: EncoderConfig) -> None:
        super().__init__()
        inner = c.mlp_dim
        self.activation = c.activation
        self.fc1 = bare_linear(c.hidden_dim, 2 * inner if c.activation == "swiglu" else inner, c.linear_bias)
        self.norm = c.norm(inner) if c.mlp_norm else None
        self.fc2 = bare_linear(inner, c.hidden_dim, c.linear_bias)
        self.dropout = nn.Dropout(c.dropout_rate) if c.dropout_rate else None
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = _ACTIVATIONS[self.activation](self.fc1(x))
        x = x if self.dropout is None else self.dropout(x)
        x = self.fc2(x if self.norm is None else self.norm(x))
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

    takes_arguments = True

    def __init__(self, c: EncoderConfig, stochastic_depth: float = 0.0, layer: int = 0) -> None:
        super().__init__()
        # Of the rotations those of this layer, where each has its own.
        self.layer = layer if c.rotary is not None and c.rotary.kind == "mixed" else None
        self.norm_after = c.norm_after
        self.norm1 = c.norm()
        self.attn = _attention(c, layer)
        self.norm2 = c.norm()
        self.mlp = MLP(c)
        self.scale1, self.scale2 = _layer_scale(c), _layer_scale(c)
        # What does nothing is left out: a call of a module costs more than small layers can spare.
        self.dropout = nn.Dropout(c.dropout_rate) if c.dropout_rate else None
        self.drop = StochasticDepth(stochastic_depth) if stochastic_depth else None

    def forward(self, x: Tensor, rotation: Tensor | None = None) -> Tensor:
        if rotation is not None and self.layer is not None:
            rotation = rotation[self.layer]
        rotations = () if rotation is None else (rotation,)
        if self.norm_after:
            branch = self.norm1(self.attn(x, *rotations))
        else:
            branch = self.attn(self.norm1(x), *rotations)
        x = self._add(x, branch if self.dropout is None else self.dropout(branch), self.scale1)
        branch = self.norm2(self.mlp(x)) if self.norm_after else self.mlp(self.norm2(x))
        return self._add(x, branch, self.scale2)

    def _add(self, x: Tensor, branch: Tensor, scale: Tensor | None) -> Tensor:
        if self.drop is not None:
            branch = self.drop(branch)
        return x + branch if scale is None else torch.addcmul(x, branch, scale)


def _attention(c: EncoderConfig, layer: int) -> Attention | DifferentialAttention:
    if c.attention == "softmax":
        return Attention(c)
    qk_norm_eps = c.layer_norm_eps if c.qk_norm else None
    return DifferentialAttention(
        c.hidden_dim, c.num_heads, c.attention_dropout_rate, c.qkv_bias is True, qk_norm_eps, layer
    )


def _layer_scale(c: EncoderConfig) -> nn.Parameter | None:
    return None if c.layer_scale is None else nn.Parameter(torch.full((c.hidden_dim,), c.layer_scale))
