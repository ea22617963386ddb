"""Images and clips as tokens, and tokens as maps and vectors.

Tokens stand in this order: those that are not patches (the prefix: a class token, a distillation
token, registers), then the patches, frame by frame and row by row.
Axes: n batch, c channels, s tokens, d width, t time, h height, w width of the grid of patches.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.fx
from torch import Tensor, nn

from classy_vision.models.vision_transformer.positions import PositionResize, make_sinusoid, resized

torch.fx.wrap("resized")
torch.fx.wrap("make_sinusoid")
torch.fx.wrap("as_clip")
torch.fx.wrap("count_tubelets")
torch.fx.wrap("some_patches")

PREFIX = ("class_token", "distillation_token", "register_tokens")
"""Tokens that are not patches, in their order."""


class Tokens(nn.Module):
    """Patches as tokens after the prefix, with positions.

    Shape: (n, c, h * patch_size, w * patch_size) to (n, s, d), or for clips (n, c, t * tubelet_size,
    h * patch_size, w * patch_size) to (n, s, d).

    Args:
        proj: makes patches of an image, (n, d, h, w), or of a clip, (n, d, t, h, w).
        width: d.
        grid: the (h, w) for which positions are learned; for others they are resized.
        patch_size: height and width of a patch in pixels.
        tubelet_size: frames of a patch, in clips.
        class_token: one token that the classifier reads.
        distillation_token: one that learns from a teacher (Touvron et al., "Training data-efficient
            image transformers & distillation through attention", 2021).
        num_register_tokens: room for the encoder's own use (Darcet et al., "Vision Transformers Need
            Registers", 2024).
        prefix_positions: the prefix has positions as well.
        resize: how positions are interpolated.
        dropout: rate, after the positions.
        patch_drop: in training, the part of the patches that is left out, at random in each image
            (Li et al., "Scaling Language-Image Pre-training via Masking", 2023).
        norm: after all of it.
        has_positions: whether positions are added: learned ones, or those of ``make_sinusoid``.
        patch_norm: of the patches, before the positions.
        directions: what rotary positions learn.
    """

    def __init__(
        self,
        proj: nn.Module,
        width: int,
        grid: tuple[int, int],
        patch_size: int,
        *,
        tubelet_size: int | None = None,
        class_token: bool = True,
        distillation_token: bool = False,
        num_register_tokens: int = 0,
        prefix_positions: bool = True,
        resize: PositionResize = "bicubic_align_corners",
        dropout: float = 0.0,
        patch_drop: float = 0.0,
        norm: nn.Module | None = None,
        has_positions: bool | Literal["sincos"] = True,
        patch_norm: nn.Module | None = None,
        directions: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.patch_size = patch_size
        self.tubelet_size = tubelet_size
        self.resize = resize
        self.patch_drop = patch_drop
        self.class_token = _learned(int(class_token), width, std=0.0)
        self.distillation_token = _learned(int(distillation_token), width, std=0.02)
        self.register_tokens = _learned(num_register_tokens, width, std=1e-6)
        self.proj = proj
        self.prefix = sum(token.shape[1] for token in self.prefix_tokens().values())
        self.has_sinusoid = has_positions == "sincos"
        learned = has_positions is True
        # tokens of the prefix that have positions
        self.placed = self.prefix if prefix_positions and not self.has_sinusoid else 0
        self.positions = _learned(learned * (self.placed + grid[0] * grid[1]), width, std=0.02)
        self.patch_norm = patch_norm
        self.directions = directions
        self.dropout = nn.Dropout(dropout)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        size = self.size_of(x)
        x = self.proj(x if self.tubelet_size is None else as_clip(x, self.tubelet_size))
        x = x.flatten(2).transpose(1, 2)
        x = self._place(x if self.patch_norm is None else self.patch_norm(x), size)
        x = self.dropout(x)
        if self.training and self.patch_drop:
            x = some_patches(x, self.prefix, self.patch_drop)
        return x if self.norm is None else self.norm(x)

    def _place(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        if self.has_sinusoid:
            return self._behind_prefix(make_sinusoid(x) + x)
        if self.positions is None:
            return self._behind_prefix(x)
        positions = resized(self.positions, self.placed, self.grid, size, self.resize)
        # A sum is laid out in memory as what stands first, and patches are not: that would slow all layers.
        return self._behind_prefix(x) + positions if self.placed else self._behind_prefix(positions + x)

    def size_of(self, x: Tensor) -> tuple[int, ...]:
        """Height and width of the grid of patches of an image; of a clip its time, height and width."""
        area = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        return area if self.tubelet_size is None else (count_tubelets(x, self.tubelet_size), *area)

    def prefix_tokens(self) -> dict[str, nn.Parameter]:
        """The tokens that are not patches by name, in their order. Shape: (1, k, d) each."""
        tokens = {name: getattr(self, name) for name in PREFIX}
        return {name: token for name, token in tokens.items() if token is not None}

    def _behind_prefix(self, x: Tensor) -> Tensor:
        prefix = [token.expand(x.shape[0], -1, -1) for token in self.prefix_tokens().values()]
        return torch.cat([*prefix, x], 1) if prefix else x


def _learned(number: int, width: int, std: float) -> nn.Parameter | None:
    if not number:
        return None
    tokens = torch.zeros(1, number, width)
    return nn.Parameter(nn.init.normal_(tokens, std=std) if std else tokens)


def as_clip(x: Tensor, tubelet_size: int) -> Tensor:
    """The clip (n, c, t, h, w); an image or a single frame as one that lasts for a whole patch."""
    x = x.unsqueeze(2) if x.dim() == 4 else x
    return x.expand(-1, -1, tubelet_size, -1, -1) if x.shape[2] == 1 else x


def count_tubelets(x: Tensor, tubelet_size: int) -> int:
    """The length in patches of a clip, (n, c, t, h, w), or of an image."""
    return max(1, x.shape[2] // tubelet_size) if x.dim() == 5 else 1


def some_patches(x: Tensor, prefix: int, drop: float) -> Tensor:
    """The prefix, and of the patches a random part, another in each sample and in no order.

    Shape: (n, prefix + s, d) to (n, prefix + max(1, int(s * (1 - drop))), d).
    """
    n, s = x.shape[0], x.shape[1] - prefix
    kept = max(1, int(s * (1.0 - drop)))
    chosen = prefix + torch.rand(n, s, device=x.device).topk(kept, sorted=False).indices
    first = torch.arange(prefix, device=x.device).expand(n, -1)
    return x.gather(1, torch.cat([first, chosen], 1).unsqueeze(2).expand(-1, -1, x.shape[2]))


def patch_map(x: Tensor, prefix: int, size: tuple[int, ...]) -> Tensor:
    """The patches of tokens as a map; a view. Shape: (n, prefix + s, d) to (n, d, h, w) or (n, d, t, h, w)."""
    return x[:, prefix:].transpose(1, 2).reshape(x.shape[0], -1, *size)


class TokenPool(nn.Module):
    """The class token, or the mean over patches. Shape: (n, s, d) to (n, d).

    Args:
        prefix: how many tokens the mean leaves out; None takes the first token.
        norm: after it.
    """

    def __init__(self, prefix: int | None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.prefix = prefix
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, 0] if self.prefix is None else x[:, self.prefix :].mean(1)
        return x if self.norm is None else self.norm(x)
