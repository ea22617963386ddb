"""Pooling: one vector for each image, of a map, a clip or tokens.

Axes: n batch, c channels, t time, h height, w width, s tokens. Functions take maps (n, c, h, w), clips
(n, c, t, h, w), tokens (n, s, c) and vectors (n, c); ``prefix`` is the number of tokens that stand before the
patches.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.fx
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.layers.attention_pool import AttentionPool

Pooling = Literal["mean", "token", "token_and_mean", "max", "gem", "attention"]
POOLINGS: tuple[str, ...] = get_args(Pooling)
WITH_TOKEN = ("token", "token_and_mean")
"""Those that read the class token."""
MAX_HEAD_WIDTH = 64
"""Channels of a head of attention, as in vision transformers."""

for _name in ("pool", "pool_max", "pool_gem", "pool_token", "pool_token_and_mean", "as_tokens"):
    torch.fx.wrap(_name)


class Pool(nn.Module):
    """Pools a feature in one of the ways of ``Pooling``.

    "mean" and "max" are over the positions, "gem" is the generalized mean with a learned power, 3 at first
    (Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018). These leave out
    tokens that are not patches. "token" is the class token, "token_and_mean" the class token followed by the
    mean, and "attention" is what a learned query finds in all tokens or positions. All but the last and "gem"
    give a vector as it is, which counts as pooled.

    Shape: see above, to (n, c); to (n, 2 c) with "token_and_mean".

    Args:
        kind: how.
        channels: of the feature; "attention" has layers for them.
        prefix: tokens before the patches.
    """

    def __init__(self, kind: Pooling, channels: int, prefix: int = 0) -> None:
        super().__init__()
        self.kind, self.prefix = kind, prefix
        self.out_channels = 2 * channels if kind == "token_and_mean" else channels
        if kind == "gem":
            self.power = nn.Parameter(torch.tensor(3.0))
        if kind == "attention":
            self.attention = AttentionPool(channels, find_num_heads(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "token":
            return pool_token(x)
        if self.kind == "token_and_mean":
            return pool_token_and_mean(x, self.prefix)
        if self.kind == "max":
            return pool_max(x, self.prefix)
        if self.kind == "gem":
            return pool_gem(x, self.power, self.prefix)
        return self.attention(as_tokens(x)) if self.kind == "attention" else pool(x, self.prefix)


def find_num_heads(channels: int) -> int:
    """As many heads of attention as divide ``channels`` into widths of at most 64."""
    return next(
        number for number in range(1, channels + 1) if not channels % number and channels <= 64 * number
    )


def check_pooling(kind: str, block: str, has_token: bool) -> None:
    """Raises where the feature of a block cannot be pooled so.

    Raises:
        ConfigError: the pooling reads the class token, and the block has none.
    """
    if kind in WITH_TOKEN and not has_token:
        others = ", ".join(name for name in POOLINGS if name not in WITH_TOKEN)
        raise ConfigError(
            f"pooling = {kind!r} reads the class token, and block {block!r} gives none: such a block is "
            f"'ln' of a vision transformer with feature_format = 'tokens' (others: {others})"
        )


def pool(x: Tensor, prefix: int = 0) -> Tensor:
    """The mean over positions, or over patches."""
    if x.dim() == 2:
        return x
    return x[:, prefix:].mean(1) if x.dim() == 3 else x.flatten(2).mean(2)


def pool_max(x: Tensor, prefix: int = 0) -> Tensor:
    """The largest value of each channel."""
    if x.dim() == 2:
        return x
    return x[:, prefix:].amax(1) if x.dim() == 3 else x.flatten(2).amax(2)


def pool_gem(x: Tensor, power: Tensor, prefix: int = 0) -> Tensor:
    """The generalized mean; what is not positive counts as almost zero."""
    return pool(x.clamp(min=1e-6).pow(power), prefix).pow(1 / power)


def pool_token(x: Tensor) -> Tensor:
    """The first token."""
    return x if x.dim() == 2 else x[:, 0]


def pool_token_and_mean(x: Tensor, prefix: int = 0) -> Tensor:
    """The first token followed by the mean over patches, (n, 2 c)."""
    return x if x.dim() == 2 else torch.cat([pool_token(x), pool(x, prefix)], 1)


def as_tokens(x: Tensor) -> Tensor:
    """Any feature as tokens: (n, s, c)."""
    if x.dim() == 2:
        return x.unsqueeze(1)
    return x if x.dim() == 3 else x.flatten(2).transpose(1, 2)
