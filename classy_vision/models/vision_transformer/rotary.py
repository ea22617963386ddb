"""Rotary position embeddings: queries and keys are rotated by where their patch is in an image or a clip.

Axes: s tokens, d width of a head of attention, i layers, a heads of attention.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from typing_extensions import Self

from classy_vision.config import Config, PositiveFloat, PositiveInt
from classy_vision.layers.eager import is_eager


class RotaryConfig(Config):
    """How patches are told apart by rotations (Su et al., "RoFormer", 2021).

    Attributes:
        kind: "axial", by row and column in patches (EVA-02: Fang et al., 2023), and in clips by frame first;
            "tiled", the same, but that the angles of an axis come one after the other, twice, over its pairs of
            channels (V-JEPA 2: Assran et al., 2025); "centered", in a square from -1 to 1, whatever the size of
            the image (DINOv3: Siméoni et al., 2025); or "mixed", by directions that each head of each layer
            learns (Heo et al., "Rotary Position Embedding for Vision Transformer", 2024).
        temperature: base of the frequencies.
        reference_grid: rows and columns in which positions are counted, whatever the grid: those of
            pre-training.
        offset: of the first row and column.
        columns_first: the channels for columns come before those for rows.
        halves: channel c is paired with c + d / 2, and not with its neighbour.
    """

    kind: Literal["axial", "tiled", "centered", "mixed"] = "axial"
    temperature: PositiveFloat = 10000.0
    reference_grid: tuple[PositiveInt, PositiveInt] | None = None
    offset: float = 0.0
    columns_first: bool = False
    halves: bool = False

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if self.halves and self.kind in ("tiled", "mixed"):
            raise ValueError(f"kind = {self.kind!r} pairs neighbours: it goes without halves = True")
        return self


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


def make_rotation(x: Tensor, size: tuple[int, ...], width: int, prefix: int, **rotary: Any) -> Tensor:
    """Sine and cosine of the angles, in single precision at least; tokens before the patches are not rotated.

    They are computed once for each size of the grid. The axes of the grid have as many pairs of channels each
    as fit; those that remain are not rotated.

    Shape: (2, prefix + s, width).

    Args:
        x: has the device and type that are wanted.
        size: (h, w) of the grid of patches, or (t, h, w).
        width: of a head of attention; a multiple of 4 for images, and at least 6 for clips.
        prefix: tokens before the patches.
        rotary: of a ``RotaryConfig`` of another kind than "mixed".
    """
    make = _keep if is_eager(x) else _rotation
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return make(_Rotary(**rotary), width, prefix, size, x.device, dtype)


def make_grid(x: Tensor, size: tuple[int, ...], **rotary: Any) -> Tensor:
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
    c: _Rotary, width: int, prefix: int, size: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _rotation(c, width, prefix, size, device, dtype)


def _rotation(
    c: _Rotary, width: int, prefix: int, size: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> Tensor:
    pairs = width // (2 * len(size))
    steps = torch.arange(pairs, device=device).float()
    grid = _grid(c, size, device).T[:, :, None]
    if c.kind == "centered":
        angles = 2 * math.pi * grid.to(dtype) / c.temperature ** (2.0 * steps / (2 * pairs))
    elif c.kind == "tiled":
        angles = grid.to(dtype) * (1.0 / c.temperature ** (steps.to(dtype) / pairs))
    else:
        angles = grid * (1.0 / c.temperature ** (steps / pairs))
    if c.kind == "tiled":
        angles = torch.cat([angles, angles], -1).flatten(1)
    else:
        angles = _pair(angles.flatten(1), c.halves)
    return _with_prefix(angles.sin(), angles.cos(), prefix, 0, width)


def _grid(c: _Rotary, size: tuple[int, ...], device: torch.device) -> Tensor:
    lines = []
    for axis, number in enumerate(size, -len(size)):
        if c.kind == "centered":
            line = 2.0 * ((torch.arange(number, device=device) + 0.5 + c.offset) / number) - 1.0
        else:
            line = torch.arange(number, device=device).float() + c.offset
        lines.append(line / number * c.reference_grid[axis] if c.reference_grid and axis >= -2 else line)
    axes = list(torch.meshgrid(lines, indexing="ij"))
    if c.columns_first:
        axes[-2:] = axes[:-3:-1]
    return torch.stack([axis.flatten() for axis in axes])


def _pair(x: Tensor, halves: bool) -> Tensor:
    """Both channels of a pair have the same angle. Shape: (..., d / 2) to (..., d)."""
    return torch.cat([x, x], -1) if halves else x.repeat_interleave(2, -1)


def _with_prefix(sin: Tensor, cos: Tensor, prefix: int, axis: int, width: int | None = None) -> Tensor:
    """Puts tokens that are not rotated first, such channels last, and sine and cosine along a new axis."""
    more = (0, 0 if width is None else width - sin.shape[-1], prefix, 0)
    return torch.stack([F.pad(sin, more), F.pad(cos, more, value=1.0)], axis)
