"""Attention and MLP against the formulas, and what training keeps in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.layers.stochastic_depth import StochasticDepth
from classy_vision.models.vision_transformer.encoder import (
    MLP,
    Attention,
    DifferentialAttention,
    EncoderConfig,
    EncoderLayer,
    MLPActivation,
)

SIZES = {"num_heads": 3, "hidden_dim": 12, "mlp_dim": 20}


def scrambled(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double()


def tokens(number: int = 5, width: int = 12) -> Tensor:
    return torch.randn(2, number, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def encoder(**options: object) -> EncoderConfig:
    return EncoderConfig.parse({**SIZES, **options})


def layer(stochastic_depth: float = 0.0, **options: object) -> EncoderLayer:
    return EncoderLayer(encoder(**options), stochastic_depth)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("eps", [None, 0.1])
def test_attention(qkv_bias: bool, eps: float | None) -> None:
    module, x = (
        scrambled(Attention(encoder(qkv_bias=qkv_bias, qk_norm=eps is not None, layer_norm_eps=eps or 1e-6))),
        tokens(),
    )
    assert (module.qkv.bias is None) == (not qkv_bias)
    bias = module.qkv.bias.unflatten(0, (3, 3, 4)) if qkv_bias else torch.zeros(3, 3, 4)
    q, k, v = (
        torch.einsum("nsd,phed->pnshe", x, module.qkv.weight.unflatten(0, (3, 3, 4))) + bias[:, None, None]
    )
    if eps is not None:
        centred = [t - t.mean(-1, keepdim=True) for t in (q, k)]
        scaled = [t / (t.square().mean(-1, keepdim=True) + eps).sqrt() for t in centred]
        q, k = (t * n.weight + n.bias for t, n in zip(scaled, (module.q_norm, module.k_norm)))
    weights = (torch.einsum("nshe,nthe->nhst", q, k) / math.sqrt(4)).exp()
    mixed = torch.einsum("nhst,nthe->nshe", weights / weights.sum(-1, keepdim=True), v).flatten(2)
    torch.testing.assert_close(module(x), mixed @ module.proj.weight.T + module.proj.bias)


@pytest.mark.parametrize("layer", [0, 3])
def test_differential_attention(layer: int) -> None:
    module, x = scrambled(DifferentialAttention(12, 3, layer=layer)), tokens()
    start = 0.8 - 0.6 * math.exp(-0.3 * layer)
    dots = [
        (q @ k).item()
        for q, k in zip((module.lambda_q1, module.lambda_q2), (module.lambda_k1, module.lambda_k2))
    ]
    part = math.exp(dots[0]) - math.exp(dots[1]) + start
    q, k, v = (x @ module.qkv.weight.T + module.qkv.bias).unflatten(2, (3, 3, 4)).unbind(2)
    q, k = q.unflatten(3, (2, 2)), k.unflatten(3, (2, 2))
    weights = (torch.einsum("nshpe,nthpe->nphst", q, k) / math.sqrt(2)).softmax(-1)
    mixed = torch.einsum("nhst,nthe->nshe", weights[:, 0] - part * weights[:, 1], v)
    normed = mixed / (mixed.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.sub_norm.weight
    expected = (normed * (1 - start)).flatten(2) @ module.proj.weight.T + module.proj.bias
    torch.testing.assert_close(module(x), expected)


def test_differential_attention_of_layers() -> None:
    module = EncoderLayer(EncoderConfig.parse({**SIZES, "attention": "differential"}), layer=2)
    assert module.attn.lambda_init == 0.8 - 0.6 * math.exp(-0.6)
    with pytest.raises(ConfigError, match="num_heads = 4 must divide hidden_dim = 12 into even parts"):
        EncoderConfig.parse({**SIZES, "num_heads": 4, "attention": "differential"})


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: Tensor) -> Tensor:
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def swiglu(x: Tensor) -> Tensor:
    gate, value = x[..., :20], x[..., 20:]
    return gate / (1 + torch.exp(-gate)) * value


@pytest.mark.parametrize(
    ("activation", "formula"),
    [("gelu", gelu), ("gelu_tanh", gelu_tanh), ("quick_gelu", quick_gelu), ("swiglu", swiglu)],
)
def test_mlp(activation: MLPActivation, formula: Callable[[Tensor], Tensor]) -> None:
    module, x = scrambled(MLP(encoder(activation=activation))), tokens()
    assert module.fc1.out_features == (40 if activation == "swiglu" else 20)
    inner = formula(x @ module.fc1.weight.T + module.fc1.bias)
    torch.testing.assert_close(module(x), inner @ module.fc2.weight.T + module.fc2.bias)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_layer_scale(scale: float | None) -> None:
    module, x = layer(layer_scale=scale), tokens()
    assert ("scale1" in dict(module.named_parameters())) == (scale is not None)
    if scale is not None:
        assert module.scale1.tolist() == module.scale2.tolist() == pytest.approx([scale] * 12)
    scrambled(module)
    gammas = (1.0, 1.0) if scale is None else (module.scale1, module.scale2)
    wanted = x + gammas[0] * module.attn(module.norm1(x))
    wanted = wanted + gammas[1] * module.mlp(module.norm2(wanted))
    torch.testing.assert_close(module(x), wanted)


def test_what_does_nothing_is_not_there() -> None:
    kinds = (nn.Dropout, nn.Identity, StochasticDepth)
    assert not [m for m in layer(qk_norm=True, layer_scale=1.0).modules() if isinstance(m, kinds)]
    assert len([m for m in layer(0.1, dropout_rate=0.1).modules() if isinstance(m, kinds)]) == 3


@pytest.mark.parametrize(
    "module",
    [
        layer(0.0, dropout_rate=0.5),
        layer(0.5, layer_scale=2.0),
        Attention(encoder(attention_dropout_rate=0.5)),
        DifferentialAttention(12, 3, dropout=0.5),
        MLP(encoder(dropout_rate=0.5)),
    ],
)
def test_random_in_training_only(module: nn.Module) -> None:
    scrambled(module)
    runs = torch.stack([module(tokens()) for _ in range(20)])
    assert len(runs.unique(dim=0)) > 1
    module.eval()
    assert torch.equal(module(tokens()), module(tokens()))


def test_stochastic_depth_leaves_out_either_branch() -> None:
    module, x = scrambled(layer(0.5, layer_scale=2.0)), tokens()[:1]
    runs = torch.stack([module(x) for _ in range(60)])
    assert len(runs.unique(dim=0)) == 4
    assert any(torch.equal(run, x) for run in runs)


def kept_by_training(module: nn.Module, number: int) -> list[Tensor]:
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(tokens(number).float().requires_grad_())
    return list(kept.values())


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "layer_scale": 0.1, "activation": "swiglu"}])
def test_memory_grows_with_the_tokens_not_with_their_square(options: dict[str, object]) -> None:
    module = layer(**options)
    parameters = {p.data_ptr() for p in module.parameters()}

    def size(number: int) -> int:
        tensors = kept_by_training(module, number)
        return sum(t.numel() for t in tensors if t.untyped_storage().data_ptr() not in parameters)

    assert size(128) > 128 * 12
    assert size(1024) < 8.1 * size(128)


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "layer_scale": 0.1, "activation": "quick_gelu"}])
def test_mixed_precision(options: dict[str, object]) -> None:
    module, x = layer(**options), tokens().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        given = module(x)
    assert given.dtype == torch.float32  # the sum of branches keeps its digits
    given.sum().backward()
    torch.testing.assert_close(given, module(x), rtol=0, atol=0.05)


def test_heads_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="num_heads = 5 must divide hidden_dim = 12"):
        layer(num_heads=5)
