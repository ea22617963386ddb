"""Pooling: one vector for each image, of patches alone where there are other tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.heads import (
    AttentionPoolHead,
    ClassyHead,
    ConcatHead,
    FullyConnectedHead,
    VisionTransformerHead,
    build_head,
)
from classy_vision.heads.classy_head import Source, TokenLayout
from classy_vision.heads.pooling import POOLINGS, Pool, find_num_heads
from classy_vision.layers.attention_pool import AttentionPool
from classy_vision.models import ClassyModel, build_model
from tests.models.small import FAMILIES, batch


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TOKENS = random(2, 7, 6)
PREFIX = 3
MAP = random(2, 6, 4, 5)
CLIP = random(2, 6, 3, 4, 5)
VIT, *_ = FAMILIES["vision_transformer"]
REGISTERS = {**VIT, "num_register_tokens": 2}


def gem(x: Tensor, power: float) -> Tensor:
    return x.clamp(min=1e-6).pow(power).mean(1).pow(1 / power)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("mean", TOKENS[:, PREFIX:].mean(1)),
        ("max", TOKENS[:, PREFIX:].amax(1)),
        ("gem", gem(TOKENS[:, PREFIX:], 3.0)),
        ("token", TOKENS[:, 0]),
        ("token_and_mean", torch.cat([TOKENS[:, 0], TOKENS[:, PREFIX:].mean(1)], 1)),
    ],
)
def test_tokens_before_the_patches_are_left_out(kind: Any, wanted: Tensor) -> None:
    pool = Pool(kind, 6, PREFIX)
    torch.testing.assert_close(pool(TOKENS), wanted)
    assert pool.out_channels == wanted.shape[1]


@pytest.mark.parametrize("kind", ["mean", "max", "gem", "attention"])
@pytest.mark.parametrize("feature", [MAP, CLIP, MAP[:, :, 0, 0]], ids=["map", "clip", "flat"])
def test_positions_count_as_patches(kind: Any, feature: Tensor) -> None:
    pool = Pool(kind, 6)
    positions = feature[..., None].flatten(2).transpose(1, 2)
    torch.testing.assert_close(pool(feature), pool(positions))
    assert pool(feature).shape == (2, 6)


def test_gem_learns_its_power() -> None:
    pool = Pool("gem", 6).double()
    x = MAP.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda power, x: torch.func.functional_call(pool, {"power": power}, x),
                                    (pool.power, x))  # fmt: skip
    pool.power.data.fill_(1.0)
    torch.testing.assert_close(pool(x.abs()), x.abs().mean((2, 3)))
    pool.power.data.fill_(200.0)
    torch.testing.assert_close(pool(x.abs()), x.abs().amax((2, 3)), rtol=0.05, atol=0)


@pytest.mark.parametrize(("channels", "heads"), [(6, 1), (64, 1), (65, 5), (128, 2), (384, 6), (67, 67)])
def test_heads_of_attention_are_at_most_64_wide(channels: int, heads: int) -> None:
    assert find_num_heads(channels) == heads


# -- attention


def test_attention_is_that_of_torch() -> None:
    pool = AttentionPool(8, 2)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight, theirs.in_proj_bias = pool.in_proj_weight, pool.in_proj_bias
    assert pool.proj is not None
    theirs.out_proj.weight, theirs.out_proj.bias = pool.proj.weight, pool.proj.bias  # type: ignore[assignment]  # torch types it loosely
    x = random(3, 5, 8)
    found, _ = theirs(pool.query.expand(3, -1, -1), x, x)
    torch.testing.assert_close(pool(x), (found + pool.mlp(pool.norm(found)))[:, 0])


def test_queries_are_averaged_and_order_does_not_matter() -> None:
    torch.manual_seed(0)
    head = AttentionPoolHead("a", 3, 8, num_queries=4, depth=3, style="vjepa2")
    x = random(2, 9, 8)
    torch.testing.assert_close(head(x.flip(1)), head(x))
    single = AttentionPoolHead("a", None, 8, num_queries=1)
    double = AttentionPoolHead("a", None, 8, num_queries=2)
    double.load_state_dict({**single.state_dict(), "pool.query": single.pool.query.repeat(1, 2, 1)})
    torch.testing.assert_close(double(x), single(x))


def test_attention_sees_all_tokens_of_the_trunk() -> None:
    model = build_model(
        {**REGISTERS, "heads": [{"name": "attention_pool", "unique_id": "a", "fork_block": "ln"}]}
    )
    (head,) = model.get_heads()["ln"]
    tokens = model.features(batch(), ["ln"])["ln"]
    assert tokens.shape[1] == 1 + 2 + 16
    torch.testing.assert_close(model(batch()), head(tokens))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 4}, "num_heads = 4 does not divide the 6 channels"),
        ({"depth": 5}, "depth = 5"),
        ({"style": "siglib"}, "siglip"),
        ({"num_queries": 0}, "num_queries = 0"),
    ],
)
def test_bad_attention(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_head({"name": "attention_pool", "unique_id": "a", "in_plane": 6, **options})


# -- heads told by their trunk


def model_with(head: ClassyHead, *blocks: str, **options: Any) -> ClassyModel:
    model = build_model({**REGISTERS, **options})
    model.set_heads({tuple(blocks): [head]})
    return model.eval()


@pytest.mark.parametrize("cls", [FullyConnectedHead, VisionTransformerHead, ConcatHead])
@pytest.mark.parametrize("kind", POOLINGS)
def test_every_pooled_head_on_tokens(cls: Any, kind: Any) -> None:
    model = model_with(cls("a", pooling=kind), "ln")
    (head,) = model.get_heads()["ln"]
    tokens = model.features(batch(), ["ln"])["ln"]
    assert isinstance(head, (FullyConnectedHead, VisionTransformerHead, ConcatHead))
    pool = Pool(kind, 16, prefix=3)
    pool.load_state_dict(head.pools[0].state_dict())
    torch.testing.assert_close(model(batch()), pool(tokens))


def test_inner_layers_are_read_through_the_last_norm() -> None:
    model = model_with(FullyConnectedHead("a"), "layer_1")
    inner = model.features(batch(), ["layer_1"])["layer_1"]
    torch.testing.assert_close(model(batch()), model.blocks["ln"](inner)[:, 3:].mean(1))
    assert all(p.requires_grad for p in model.blocks["ln"].parameters())
    model = model_with(FullyConnectedHead("a", trunk_norm=False), "layer_1")
    torch.testing.assert_close(model(batch()), inner[:, 3:].mean(1), rtol=1, atol=10)
    given = model.features(batch(), ["layer_1"])["layer_1"]
    torch.testing.assert_close(model(batch()), given[:, 3:].mean(1))
    assert not any(p.requires_grad for p in model.blocks["ln"].parameters())


@pytest.mark.parametrize("kind", ["token", "token_and_mean"])
def test_a_token_where_there_is_none(kind: Any) -> None:
    head = FullyConnectedHead("a", 3, pooling=kind)
    for given, block in (({}, "trunk_output"), ({"feature_format": "map"}, "ln"),
                         ({"classifier": "gap"}, "ln")):  # fmt: skip
        model = build_model({**VIT, **given})
        with pytest.raises(ConfigError, match=f"pooling = '{kind}' reads the class token, and block '{block}'"):
            model.set_heads({block: [head]})
        assert model.get_heads() == {}


# -- concat


def test_concat_is_pooled_features_side_by_side() -> None:
    head = ConcatHead("a", 3, (6, 6), ("mean", "max"))
    wanted = head.fc(torch.cat([MAP.mean((2, 3)), TOKENS.amax(1)], 1))
    torch.testing.assert_close(head(MAP, TOKENS), wanted)
    norm = ConcatHead("a", None, (6, 6), norm="batch").train()
    x = norm(MAP, TOKENS)
    torch.testing.assert_close(x.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
    assert list(norm.parameters()) == []
    layer = ConcatHead("a", None, (6, 6), norm="layer")
    torch.testing.assert_close(layer(MAP, TOKENS).mean(1), torch.zeros(2), atol=1e-5, rtol=0)


def test_concat_in_the_order_of_its_blocks() -> None:
    first = model_with(ConcatHead("a"), "layer_0", "layer_2")
    given = first(batch())
    second = build_model(REGISTERS)
    second.set_heads({"layer_2+layer_0": [ConcatHead("a")]})
    second.load_state_dict({k: v for k, v in first.state_dict().items() if not k.startswith("heads.")})
    torch.testing.assert_close(second.eval()(batch()), torch.cat(given.chunk(2, 1)[::-1], 1))


def test_concat_with_the_wrong_number() -> None:
    with pytest.raises(ConfigError, match="pooling has 2 entries for 3 blocks"):
        ConcatHead("a", 3, (6, 6, 6), ("mean", "max"))
    with pytest.raises(ConfigError, match="pooling has 3 entries for 1 blocks"):
        ConcatHead("a", 3, pooling=("mean",) * 3).connect([Source("b", 6)])
    with pytest.raises(ConfigError, match="unknown pooling 'men'; did you mean 'mean'"):
        ConcatHead("a", 3, pooling=("men",))  # type: ignore[arg-type]  # what is refused
    head = ConcatHead("a", 3, (6, 6))
    with pytest.raises(ConfigError, match=r"expects in_planes=\[6, 6\] of 2 blocks, but reads 1"):
        build_model(VIT).set_heads({"ln": [head]})


def test_pools_are_told_anew_where_they_are_moved() -> None:
    head = FullyConnectedHead("a", in_plane=16)
    head.connect([Source("ln", 16, tokens=TokenLayout(4, True))])
    x = random(2, 9, 16)
    torch.testing.assert_close(head(x), x[:, 4:].mean(1))
    head.connect([Source("ln", 16, tokens=TokenLayout(1, True))])
    torch.testing.assert_close(head(x), x[:, 1:].mean(1))
