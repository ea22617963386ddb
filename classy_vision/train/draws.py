"""Random numbers of a training step that depend on the seed, the epoch, the step and the row alone.

Every process seeds its generators alike for each step. Where it has only some of the rows of the
global batch, it draws for all of them and takes its own, so that dropout, stochastic depth and patch
dropout fall on the same rows however many processes there are. That costs each process the random
numbers of all of them; the masks of the other rows are freed at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

Draw = Callable[..., Any]


def seed_step(seed: int, epoch: int, step: int, rank: int | None = None) -> None:
    """Seeds torch's generators, on all devices, for one training step.

    Args:
        seed: of the run.
        epoch, step: which.
        rank: of the process, where each has random numbers of its own.
    """
    torch.manual_seed(Random(f"{seed} {epoch} {step} {rank}").getrandbits(63))


class GlobalDraws(TorchFunctionMode):
    """While it is entered, random numbers for this process's rows are those of the global batch.

    It sees ``dropout``, ``scaled_dot_product_attention``, ``rand`` and ``randn``, and tensors that are
    filled with ``bernoulli_``, ``uniform_`` or ``normal_``, if their first axis is the rows, or the
    rows and whatever was folded into them behind. Compiled code is not seen, nor are functions that
    ``torch.utils.checkpoint`` runs again; ``layers.recompute`` enters it there.

    Args:
        places: (n,), of this process's rows in the global batch.
        total: rows in the global batch.
    """

    def __init__(self, places: Tensor, total: int) -> None:
        super().__init__()
        self.places = places
        self.total = total

    def __torch_function__(
        self, func: Draw, types: Iterable[Any], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        draw = _DRAWS.get(func)
        if draw is None:
            return func(*args, **(kwargs or {}))
        return draw(self, func, *args, **(kwargs or {}))

    def has_rows(self, shape: Iterable[int]) -> bool:
        """Whether ``shape`` begins with the rows of this process."""
        first, n = next(iter(shape), 0), len(self.places)
        return n > 0 and first > 0 and first % n == 0

    def whole(self, like: Tensor) -> Tensor:
        """An empty tensor for the rows of all processes, laid out in memory as ``like``."""
        like = torch.empty_like(like)
        row = math.prod(like.shape[1:])
        strides = (row, *like.stride()[1:])
        shape = (len(like) // len(self.places) * self.total, *like.shape[1:])
        if sum((size - 1) * step for size, step in zip(shape[1:], strides[1:])) >= max(row, 1):
            return like.new_empty(shape)  # the rows are not outermost in memory
        return like.new_empty_strided(shape, strides)

    def mine(self, whole: Tensor) -> Tensor:
        """This process's rows of ``whole``."""
        folded = whole.reshape(self.total, len(whole) // self.total, *whole.shape[1:])
        return folded[self.places.to(whole.device)].flatten(0, 1)


def _dropout(
    draws: GlobalDraws, func: Draw, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or not p or not draws.has_rows(x.shape):
        return func(x, p, training, inplace)
    mask = draws.mine(func(draws.whole(x.detach()).fill_(1), p, True))
    return x.mul_(mask) if inplace else x * mask


def _attention(
    draws: GlobalDraws,
    func: Draw,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """With dropout it is written out: torch's kernels draw what they drop inside."""
    if not dropout_p or not draws.has_rows(query.shape) or is_causal or options.get("enable_gqa"):
        return func(query, key, value, attn_mask, dropout_p, is_causal, **options)
    scale = options.get("scale") or query.shape[-1] ** -0.5
    scores = (query * scale) @ key.transpose(-2, -1)
    if attn_mask is not None:
        scores = (
            scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        )
    return _dropout(draws, F.dropout, scores.softmax(-1), dropout_p) @ value


def _fill(draws: GlobalDraws, func: Draw, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if not draws.has_rows(x.shape) or any(isinstance(arg, Tensor) for arg in (*args, *kwargs.values())):
        return func(x, *args, **kwargs)
    return x.copy_(draws.mine(func(draws.whole(x), *args, **kwargs)))


def _create(draws: GlobalDraws, func: Draw, *size: Any, **kwargs: Any) -> Tensor:
    shape = size[0] if size and not isinstance(size[0], int) else size or kwargs.pop("size")
    if not draws.has_rows(shape):
        return func(shape, **kwargs)
    return draws.mine(func(shape[0] // len(draws.places) * draws.total, *shape[1:], **kwargs))


_DRAWS: dict[Draw, Draw] = {
    F.dropout: _dropout,
    F.scaled_dot_product_attention: _attention,
    torch.rand: _create,
    torch.randn: _create,
    torch.Tensor.bernoulli_: _fill,
    torch.Tensor.uniform_: _fill,
    torch.Tensor.normal_: _fill,
}
