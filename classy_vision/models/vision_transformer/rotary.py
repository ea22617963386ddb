"""Rotary position embeddings in two dimensions: queries and keys are rotated by where their patch is.

Axes: s tokens, d width of a head of attention, i layers, a heads of attention.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.config import Config, PositiveFloat, PositiveInt
from classy_vision.layers.eager import is_eager


class RotaryConfig(Config):
    """How patches are told apart by rotations (Su et al., "RoFormer", 2021).

    Attributes:
        kind: "axial", by row and column in patches (EVA-02: Fang et al., 2023); "centered", in a square from -1
            to 1, whatever the size of the image (DINOv3: Siméoni et al., 2025); or "mixed", by directions that
            each head of each layer learns (Heo et al., "Rotary Position Embedding for Vision Transformer",
            2024).
        temperature: base of the frequencies.
        reference_grid: rows and columns in which positions are counted, whatever the grid: those of
            pre-training.
        offset: of the first row and column.
        columns_first: the first half of the channels is for columns.
        halves: channel c is paired with c + d / 2, and not with its neighbour.
    """

    kind: Literal["axial", "centered", "mixed"] = "axial"
    temperature: PositiveFloat = 10000.0
    reference_grid: tuple[PositiveInt, PositiveInt] | None = None
    offset: float = 0.0
    columns_first: bool = False
    halves: bool = False


class _Rotary(NamedTuple):
    """The values of a ``RotaryConfig``, which compilers can look into."""

    kind: str
    temperature: float
    reference_grid: tuple[int, int] | None
    offset: float
    columns_first: bool
    halves: bool


class MixedDirections(nn.Module):
    """What "mixed" learns: for each pair of channels the angle that a step along each axis turns it by.

    Args:
        c: of kind "mixed".
        layers, heads: how many there are.
        width: of a head.
    """

    def __init__(self, c: RotaryConfig, layers: int, heads: int, width: int) -> None:
        super().__init__()
        sizes = 1.0 / c.temperature ** (torch.arange(0, width, 4).float() / width)
        turn = 2 * math.pi * torch.rand(layers, heads, 1)
        turns = (turn, turn + math.pi / 2)
        along = [torch.cat([sizes * f(t) for t in turns], -1) for f in (torch.cos, torch.sin)]
        self.freqs = nn.Parameter(torch.stack(along))

    def forward(self, grid: Tensor, prefix: int) -> Tensor:
        """Rotations of all layers. Shape: (2, s) to (i, 2, a, prefix + s, d)."""
        first, second = grid.unbind(0)
        freqs = self.freqs.float().unsqueeze(3)
        angles = first[:, None] * freqs[0] + second[:, None] * freqs[1]
        return _with_prefix(_pair(angles.sin(), False), _pair(angles.cos(), False), prefix, 1)


def make_rotation(x: Tensor, size: tuple[int, int], width: int, prefix: int, **rotary: Any) -> Tensor:
    """Sine and cosine of the angles, in single precision at least; tokens before the patches are not rotated.

    They are computed once for each size of the grid.

    Shape: (2, prefix + h * w, width).

    Args:
        x: has the device and type that are wanted.
        size: (h, w) of the grid of patches.
        width: of a head of attention; a multiple of 4.
        prefix: tokens before the patches.
        rotary: of a ``RotaryConfig`` of another kind than "mixed".
    """
    make = _keep if is_eager(x) else _rotation
    dtype = torch.promote_types(x.dtype, torch.float32)
    return make(_Rotary(**rotary), width, prefix, size, x.device, dtype)


def make_grid(x: Tensor, size: tuple[int, int], **rotary: Any) -> Tensor:
    """The two coordinates of the patches, row by row, in float32. Shape: (2, h * w)."""
    return _grid(_Rotary(**rotary), size, x.device)


def rotate(x: Tensor, rotation: Tensor, halves: bool) -> Tensor:
    """Rotates pairs of channels. Shape: (n, a, s, d), unchanged, by (2, s, d) or (2, a, s, d)."""
    if halves:
        first, second = x.chunk(2, -1)
        turned = torch.cat([-second, first], -1)
    else:
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    return (x * rotation[1] + turned * rotation[0]).to(x.dtype)


@lru_cache(maxsize=128)
def _keep(
    c: _Rotary, width: int, prefix: int, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _rotation(c, width, prefix, size, device, dtype)


def _rotation(
    c: _Rotary, width: int, prefix: int, size: tuple[int, int], device: torch.device, dtype: torch.dtype
) -> Tensor:
    steps = torch.arange(width // 4, device=device).float()
    if c.kind == "centered":
        periods = c.temperature ** (2.0 * steps / (width // 2))
        angles = 2 * math.pi * _grid(c, size, device).T[:, :, None].to(dtype) / periods
    else:
        angles = _grid(c, size, device).T[:, :, None] * (1.0 / c.temperature ** (steps / (width // 4)))
    angles = angles.flatten(1)
    return _with_prefix(_pair(angles.sin(), c.halves), _pair(angles.cos(), c.halves), prefix, 0)


def _grid(c: _Rotary, size: tuple[int, int], device: torch.device) -> Tensor:
    lines = []
    for axis, number in enumerate(size):
        if c.kind == "centered":
            line = 2.0 * ((torch.arange(number, device=device) + 0.5 + c.offset) / number) - 1.0
        else:
            line = torch.arange(number, device=device).float() + c.offset
        lines.append(line / number * c.reference_grid[axis] if c.reference_grid else line)
    rows, columns = lines[0][:, None].expand(size), lines[1].expand(size)
    order = (columns, rows) if c.columns_first else (rows, columns)
    return torch.stack([line.flatten() for line in order])


def _pair(x: Tensor, halves: bool) -> Tensor:
    """Both channels of a pair have the same angle. Shape: (..., d / 2) to (..., d)."""
    return torch.cat([x, x], -1) if halves else x.repeat_interleave(2, -1)


def _with_prefix(sin: Tensor, cos: Tensor, prefix: int, axis: int) -> Tensor:
    """Puts tokens that are not rotated first, and sine and cosine along a new axis."""
    sin = F.pad(sin, (0, 0, prefix, 0))
    return torch.stack([sin, F.pad(cos, (0, 0, prefix, 0), value=1.0)], axis)
