"""Tokens of images: their order, their positions, and those that training leaves out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.models.vision_transformer.conv_stem import ConvStemLayer, conv_stem, patch_conv
from classy_vision.models.vision_transformer.tokens import TokenPool, Tokens, patch_map, some_patches

PREFIXES: list[dict[str, Any]] = [
    {"class_token": False},
    {},
    {"distillation_token": True},
    {"class_token": False, "num_register_tokens": 3},
    {"distillation_token": True, "num_register_tokens": 3},
]


def stem(**options: Any) -> Tokens:
    torch.manual_seed(0)
    module = Tokens(patch_conv(3, 6, 4), 6, (2, 3), 4, **options).double()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def images(height: int = 8, width: int = 12) -> Tensor:
    return torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prefix_positions", [True, False])
@pytest.mark.parametrize("options", PREFIXES)
def test_the_order_of_tokens(options: dict[str, Any], prefix_positions: bool) -> None:
    module = stem(**options, prefix_positions=prefix_positions)
    names = ["class_token", "distillation_token", "register_tokens"]
    first = [t for t in (getattr(module, name) for name in names) if t is not None]
    number = sum(t.shape[1] for t in first)
    assert number == module.prefix
    assert module.positions.shape == (1, 6 + (number if prefix_positions else 0), 6)
    patches = images().unfold(2, 4, 4).unfold(3, 4, 4)  # n, c, h, w, y, x
    patches = torch.einsum("nchwyx,dcyx->nhwd", patches, module.proj.weight).flatten(1, 2) + module.proj.bias
    missing = torch.zeros(1, 0 if prefix_positions else number, 6)
    wanted = torch.cat([*(t.expand(2, -1, -1) for t in first), patches], 1)
    torch.testing.assert_close(module(images()), wanted + torch.cat([missing, module.positions], 1))


@pytest.mark.parametrize("prefix_positions", [True, False])
@pytest.mark.parametrize("options", PREFIXES)
def test_tokens_are_laid_out_for_the_layers_behind(options: dict[str, Any], prefix_positions: bool) -> None:
    module = stem(**options, prefix_positions=prefix_positions)
    assert module(images()).is_contiguous()
    assert module(images(16, 16)).is_contiguous()


def test_other_sizes_take_positions_by_interpolation() -> None:
    module = stem(num_register_tokens=1, resize="bilinear")
    with torch.no_grad():
        module.positions[:, 2:] = 3.0
        found = module(images(16, 20)) - stem(num_register_tokens=1, resize="bicubic")(images(16, 20))
    assert found.shape == (2, 2 + 4 * 5, 6)
    assert found[:, :2].abs().max() == 0  # those in front are not on the grid


def test_norm_and_dropout() -> None:
    plain, normed = stem(), stem(norm=nn.LayerNorm(6))
    wanted = torch.nn.functional.layer_norm(plain(images()), (6,), normed.norm.weight, normed.norm.bias)
    torch.testing.assert_close(normed(images()), wanted)
    dropping = stem(dropout=0.5)
    assert (dropping(images()) == 0).any()
    torch.testing.assert_close(dropping.eval()(images()), plain(images()))


@pytest.mark.parametrize(("drop", "kept"), [(0.5, 3), (0.3, 4), (0.99, 1)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_some_patches(drop: float, kept: int, prefix: int) -> None:
    x = torch.arange(50 * (prefix + 6)).view(50, -1, 1).expand(-1, -1, 4).double().requires_grad_()
    y = some_patches(x, prefix, drop)
    assert y.shape == (50, prefix + kept, 4)
    assert torch.equal(y[:, :prefix], x[:, :prefix])
    chosen = (y[:, prefix:, 0] - x[:, :1, 0] - prefix).int()
    assert all(len(set(row)) == kept and set(row) <= set(range(6)) for row in chosen.tolist())
    assert len({tuple(sorted(row)) for row in chosen.tolist()}) > 1  # others in each image
    assert set(chosen.flatten().tolist()) == set(range(6))
    y.sum().backward()
    assert x.grad.sum().item() == y.numel()


def test_patches_are_dropped_in_training_only() -> None:
    module = stem(patch_drop=0.5, num_register_tokens=2)
    assert module(images()).shape == (2, 3 + 3, 6)
    assert torch.equal(module(images())[:, :3], module.eval()(images())[:, :3])
    assert module(images()).shape == (2, 3 + 6, 6)


def test_a_map_is_a_view() -> None:
    x = torch.randn(2, 3 + 4 * 5, 6)
    given = patch_map(x, 3, (4, 5))
    assert given.shape == (2, 6, 4, 5)
    assert given.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert torch.equal(given[1, :, 2, 3], x[1, 3 + 2 * 5 + 3])


@pytest.mark.parametrize("norm", [None, nn.LayerNorm(6)])
def test_pool(norm: nn.Module | None) -> None:
    x = torch.randn(2, 7, 6)
    for prefix, wanted in ((None, x[:, 0]), (0, x.sum(1) / 7), (3, x[:, 3:].sum(1) / 4)):
        torch.testing.assert_close(TokenPool(prefix, norm)(x), norm(wanted) if norm else wanted)


def test_conv_stem() -> None:
    layers = [
        ConvStemLayer(kernel=3, stride=2, out_channels=5),
        ConvStemLayer(kernel=5, stride=2, out_channels=7),
    ]
    for bias in (True, False):
        module = conv_stem(3, 6, layers, bias)
        assert list(module._modules) == ["layer_0", "layer_1", "last"]
        assert (module.last.bias is not None) == bias
        assert (patch_conv(3, 6, 4, bias).bias is not None) == bias
        assert module(images().float()).shape == (2, 6, 2, 3)
