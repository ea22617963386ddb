"""Position embeddings: learned ones, on grids of other sizes too, and sines and cosines."""

from __future__ import annotations

from functools import lru_cache
from math import isqrt
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from classy_vision.config import ConfigError
from classy_vision.layers.eager import is_eager

PositionResize = Literal[
    "bicubic_align_corners",
    "bicubic",
    "bicubic_antialias",
    "bicubic_offset",
    "bilinear",
    "bilinear_align_corners",
]
"""How positions are interpolated: features fit weights only with the one they were made for.

- ``bicubic_align_corners``: the outermost positions stay in the corners. The original, SWAG,
  torchvision.
- ``bicubic``: positions stand for areas. DeiT, MAE.
- ``bicubic_antialias``: the same, with a wider kernel where the grid shrinks. timm, OpenCLIP, DINOv2
  with registers.
- ``bicubic_offset``: the same without it, for a grid that is 0.1 larger. DINO, DINOv2 without registers.
- ``bilinear``: positions stand for areas. FlexiViT and Google's other weights in timm, most of RADIO.
- ``bilinear_align_corners``: Google's own code, RADIO v3's base and huge models.
"""
_OFFSET = 0.1


def resized(
    positions: Tensor, prefix: int, grid: tuple[int, int], size: tuple[int, ...], how: PositionResize
) -> Tensor:
    """Position embeddings for a grid of another size; those of the first ``prefix`` tokens stay.

    Shape: (1, prefix + h * w, d) to (1, prefix + H * W, d), where ``grid`` is (h, w) and ``size`` (H, W).
    """
    if grid == size:
        return positions
    mode, _, option = how.partition("_")
    # Half precision has too few digits for the weights of an interpolation.
    image = positions[:, prefix:].to(torch.float64 if positions.dtype == torch.float64 else torch.float32)
    image = image.transpose(1, 2).reshape(1, -1, *grid)
    if option == "offset":
        scale = [(new + _OFFSET) / old for new, old in zip(size, grid)]
        image = F.interpolate(image, scale_factor=scale, mode=mode)
    else:
        corners, antialias = option == "align_corners", option == "antialias"
        image = F.interpolate(image, size, mode=mode, align_corners=corners, antialias=antialias)
    tokens = image.flatten(2).transpose(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :prefix], tokens], 1) if prefix else tokens.contiguous()


def split_positions(
    given: Tensor, prefix: int, placed: int, grid: tuple[int, int], how: PositionResize
) -> tuple[Tensor, Tensor]:
    """Position embeddings that were learned with other tokens, or for another grid.

    They are taken to be for ``grid`` or else for a square one, and those in front of it for the first
    tokens of the prefix.

    Args:
        given: (1, k + h * w, d).
        prefix: number of tokens in front of the grid.
        placed: how many of them are most likely to have positions.
        grid: the wanted height and width.
        how: how they are resized.

    Returns:
        (1, prefix, d), zero where a token had no position, and (1, height * width, d).

    Raises:
        ConfigError: their number is that of no such grid.
    """
    k, own = in_front(given.shape[1], prefix, placed, grid)
    first, patches = given[:, :k], resized(given[:, k:], 0, own, grid, how)
    return torch.cat([first, given.new_zeros(1, prefix - k, given.shape[2])], 1), patches


def in_front(number: int, prefix: int, placed: int, grid: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """How many of ``number`` positions stand in front of the grid, and that grid."""
    for k in range(prefix + 1):
        if number - k == grid[0] * grid[1]:
            return k, grid
    for k in (placed, *range(prefix + 1)):
        side = isqrt(max(number - k, 0))
        if side and side**2 == number - k:
            return k, (side, side)
    raise ConfigError(
        f"{number} position embeddings are not a square grid with up to {prefix} more: they were learned "
        f"with other tokens, or for images that are not square"
    )


def make_sinusoid(x: Tensor) -> Tensor:
    """Sines and cosines of the number of a token, in turns (Vaswani et al., "Attention Is All You Need", 2017,
    section 3.5), as VideoMAE adds them to the tokens of clips.

    They are computed once for each number of tokens.

    Shape: (n, s, d) to (1, s, d).

    Args:
        x: tokens, of whose device and type they are; d is even.
    """
    make = _keep_sinusoid if is_eager(x) else _sinusoid
    return make(x.shape[1], x.shape[2], x.device, x.dtype)


@lru_cache(maxsize=128)
def _keep_sinusoid(number: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return _sinusoid(number, width, device, dtype)


def _sinusoid(number: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    precise = torch.float32 if device.type == "mps" else torch.float64  # which MPS does not have
    steps = torch.arange(0, width, 2, device=device, dtype=precise) / width
    angles = torch.arange(number, device=device, dtype=precise)[:, None] / 10000.0**steps
    # Weights were trained with numbers of single precision, whatever the model's.
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[None].float().to(dtype)
