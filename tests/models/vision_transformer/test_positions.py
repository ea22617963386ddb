"""Positions on other grids, against interpolation written out as matrices."""

from __future__ import annotations

from math import ceil
from typing import get_args

import pytest
import torch
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.models.vision_transformer.positions import PositionResize, resized, split_positions

GENERATOR = torch.Generator().manual_seed(0)


def positions(tokens: int, width: int = 3) -> Tensor:
    return torch.randn(1, tokens, width, dtype=torch.float64, generator=GENERATOR)


def kernel(t: float, how: str) -> float:
    """Linear, or cubic as Keys, "Cubic Convolution Interpolation", 1981."""
    t = abs(t)
    if how.startswith("bilinear"):
        return max(0.0, 1.0 - t)
    a = -0.5 if how == "bicubic_antialias" else -0.75
    if t < 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0


def matrix(old: int, new: int, how: str) -> Tensor:
    """Weights (new, old) of one axis; what lies outside is the nearest one inside."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    step = {"bicubic_offset": old / (new + 0.1)}.get(how, old / new)
    if how.endswith("align_corners"):
        step = (old - 1) / (new - 1) if new > 1 else 0.0
    stretch = max(step, 1.0) if how == "bicubic_antialias" else 1.0
    for i in range(new):
        x = i * step if how.endswith("align_corners") else (i + 0.5) * step - 0.5
        if how.startswith("bilinear"):
            x = max(x, 0.0)
        reach = ceil(2 * stretch) + 1
        for j in range(int(x) - reach, int(x) + reach + 1):
            inside = 0 <= j < old
            if how == "bicubic_antialias" and not inside:  # which leaves out what lies outside
                continue
            weights[i, min(max(j, 0), old - 1)] += kernel((x - j) / stretch, how)
    return weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("how", get_args(PositionResize))
@pytest.mark.parametrize("size", [(7, 7), (2, 2), (3, 9), (8, 5), (1, 4)])
@pytest.mark.parametrize("prefix", [0, 2])
def test_interpolation(how: PositionResize, size: tuple[int, int], prefix: int) -> None:
    given = positions(prefix + 4 * 5)
    grid = given[:, prefix:].unflatten(1, (4, 5))
    rows, columns = matrix(4, size[0], how), matrix(5, size[1], how)
    wanted = torch.einsum("yh,xw,bhwd->byxd", rows, columns, grid).flatten(1, 2)
    found = resized(given, prefix, (4, 5), size, how)
    assert torch.equal(found[:, :prefix], given[:, :prefix])
    torch.testing.assert_close(found[:, prefix:], wanted, rtol=0, atol=1e-12)


def test_the_same_grid_costs_nothing() -> None:
    given = positions(20)
    assert resized(given, 0, (4, 5), (4, 5), "bicubic") is given
    assert resized(given, 0, (4, 5), (5, 4), "bicubic") is not given


@pytest.mark.parametrize("how", get_args(PositionResize))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_interpolated_in_full(how: PositionResize, dtype: torch.dtype) -> None:
    given = positions(17).to(dtype)
    found = resized(given, 1, (4, 4), (6, 3), how)
    assert found.dtype == dtype
    assert torch.equal(found, resized(given.float(), 1, (4, 4), (6, 3), how).to(dtype))


@pytest.mark.parametrize(
    ("tokens", "prefix", "placed", "grid", "first"),
    [
        (17, 1, 1, (4, 4), 1),
        (17, 1, 0, (4, 4), 1),
        (16, 1, 1, (4, 4), 0),
        (16, 5, 5, (2, 8), 0),  # of the model's own grid before a square one
        (17, 5, 5, (2, 8), 1),
        (21, 5, 5, (3, 3), 5),
        (10, 1, 1, (4, 4), 1),
        (9, 1, 0, (4, 4), 0),
        (9, 5, 5, (4, 4), 5),  # both 5 + 4 and 0 + 9: as the model has them
        (9, 5, 0, (4, 4), 0),
    ],
)
def test_which_are_in_front(tokens: int, prefix: int, placed: int, grid: tuple[int, int], first: int) -> None:
    given = positions(tokens)
    front, patches = split_positions(given, prefix, placed, grid, "bicubic")
    assert front.shape == (1, prefix, 3)
    assert torch.equal(front[:, :first], given[:, :first])
    assert front[:, first:].abs().sum() == 0
    side = int((tokens - first) ** 0.5)
    own = grid if tokens - first == grid[0] * grid[1] else (side, side)
    assert torch.equal(patches, resized(given[:, first:], 0, own, grid, "bicubic"))


@pytest.mark.parametrize(("tokens", "prefix"), [(17, 0), (18, 1), (3, 0), (22, 5)])
def test_numbers_that_fit_no_grid(tokens: int, prefix: int) -> None:
    message = f"^{tokens} position embeddings are not a square grid with up to {prefix} more"
    with pytest.raises(ConfigError, match=message):
        split_positions(positions(tokens), prefix, prefix, (5, 5), "bicubic")
