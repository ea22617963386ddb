"""Concatenation along channels without copies (Pleiss et al., "Memory-Efficient Implementation of
DenseNets", 2017, section 3): what a layer adds is written after its input, in storage that the
layers of a stage share.

Such a storage is channel-major, (c, n, h, w): its first channels are one piece of memory, and what
follows them is capacity. Tensors over it are (n, c, h, w) as all others, with other strides. How
far a storage is written is an attribute of the storage itself: modules keep nothing, and what has
another storage, such as a copy of a feature, starts afresh.

Axes: n batch, c channels, h height, w width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from classy_vision.layers.eager import device_of, is_eager, needs_gradient

MEASURED = frozenset({"cpu"})
"""Devices where all this was measured to be quicker as well. On others it is done where it saves
memory, by the kernels that the modules would use, and batches with channels last stay as they are."""
WORTH_SHARING = 2**18
"""Elements from which on it is quicker not to copy them, where no gradient keeps them."""


def append(x: Tensor, new: Tensor, capacity: int) -> Tensor:
    """``torch.cat([x, new], 1)`` in the storage of ``x``, if it is free after ``x``.

    Otherwise ``x`` is copied into a new storage. No value of another tensor changes, but the result
    shares memory with ``x``: clone it before writing to it.

    Args:
        x: (n, c, h, w).
        new: (n, d, h, w).
        capacity: channels of a new storage, c + d or more.
    """
    if is_eager(x, new):
        if needs_gradient(x, new):
            if _can_share(x, new):
                longer: Tensor = _Append.apply(x, new, capacity)  # type: ignore[no-untyped-call]  # torch does not type it
                return longer
        elif x.numel() >= WORTH_SHARING and device_of(x) in MEASURED and _can_share(x, new):
            return _appended(x, new, capacity)
    return torch.cat([x, new], 1)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, over n, h and w; (c,) each, in 32 bits or more.

    Layers that read the same channels of a shared storage share the result.
    """
    x = x.detach()
    shared = _SharedStorage.of(x)
    if shared is None or x.is_inference() or x._version > 0:  # it may have been changed since
        return _moments(x)
    known = shared.moments
    channels = len(known[0]) if known else 0
    if channels < x.shape[1]:
        more = _moments(x[:, channels:])
        known = (torch.cat([known[0], more[0]]), torch.cat([known[1], more[1]])) if known else more
        shared.moments = known
    assert known is not None
    return known[0][: x.shape[1]], known[1][: x.shape[1]]


def is_channel_major(x: Tensor) -> bool:
    """Whether (n, c, h, w) is laid out as (c, n, h, w); so is any contiguous batch of one."""
    return x.transpose(0, 1).is_contiguous()


def is_shared(x: Tensor) -> bool:
    """Whether (n, c, h, w) is laid out as ``append`` does, and otherwise than usual."""
    return x.dim() == 4 and x.shape[0] > 1 and device_of(x) in MEASURED and is_channel_major(x)


def as_image(x: Tensor, like: Tensor | None = None) -> Tensor:
    """A batch as one contiguous image, (1, c, n * h, w), where ``x``, or ``like``, is channel-major.

    Kernels are quick on these; other batches stay as they are.
    """
    return x.transpose(0, 1).flatten(1, 2)[None] if is_channel_major(x if like is None else like) else x


def as_batch(image: Tensor, n: int) -> Tensor:
    """The batch of ``n`` that ``as_image`` made an image of."""
    return image if len(image) == n else image.view(image.shape[1], n, -1, image.shape[3]).transpose(0, 1)


class _Append(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, new: Tensor, capacity: int) -> Tensor:
        ctx.channels = x.shape[1]
        return _appended(x, new, capacity)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        return gradient[:, : ctx.channels], gradient[:, ctx.channels :], None


class _SharedStorage:
    """What is known of a shared storage.

    Attributes:
        kind: type and number of the elements of a channel.
        end: the number of elements that are written; empty while and after somebody extends them.
        moments: of the first channels.
    """

    def __init__(self, x: Tensor) -> None:
        self.kind = self.kind_of(x)
        self.end: set[int] = set()
        self.moments: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def kind_of(x: Tensor) -> tuple[torch.dtype, int]:
        return x.dtype, x.numel() // x.shape[1]

    @classmethod
    def of(cls, x: Tensor) -> _SharedStorage | None:
        """That of the storage whose first channels ``x`` is."""
        shared: _SharedStorage | None = getattr(x.untyped_storage(), "_shared", None)
        if shared is None or x.storage_offset() or not is_channel_major(x) or shared.kind != cls.kind_of(x):
            return None
        return shared

    def take(self, end: int) -> bool:
        """Whether the capacity after ``end`` now belongs to the caller; of several threads one gets it."""
        try:
            self.end.remove(end)
        except KeyError:
            return False
        return True


def _can_share(x: Tensor, new: Tensor) -> bool:
    return (
        x.dim() == new.dim() == 4
        and x.shape[0] == new.shape[0]
        and x.shape[2:] == new.shape[2:]
        and x.device == new.device
        and torch.promote_types(x.dtype, new.dtype) == x.dtype
        and (
            device_of(x) in MEASURED
            or not x.is_contiguous(memory_format=torch.channels_last)
            or is_channel_major(x)
        )
    )


def _appended(x: Tensor, new: Tensor, capacity: int) -> Tensor:
    n, c, h, w = x.shape
    total = c + new.shape[1]
    shared = _SharedStorage.of(x)
    fits = x.itemsize * total * n * h * w <= x.untyped_storage().nbytes()
    # What inference mode has made can be written to there alone.
    writable = fits and x.is_inference() == torch.is_inference_mode_enabled()
    if shared is None or not writable or not shared.take(x.numel()):
        x, shared = _moved(x, max(capacity, total))
    # Detached: all tensors over a storage count changes together, so that autograd refuses to use
    # one that another was changed through.
    longer = x.detach().as_strided((n, total, h, w), (h * w, n * h * w, w, 1)).detach()
    longer.data.narrow(1, c, total - c).copy_(new)  # .data: what follows x is not part of x
    shared.end.add(longer.numel())
    return longer


def _moved(x: Tensor, capacity: int) -> tuple[Tensor, _SharedStorage]:
    """``x`` at the beginning of a new storage."""
    storage = x.new_empty(capacity, len(x), *x.shape[2:])
    storage.data[: x.shape[1]] = x.transpose(0, 1)
    shared = _SharedStorage(x)
    setattr(storage.untyped_storage(), "_shared", shared)  # noqa: B010
    return storage, shared


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    image = as_image(x)
    wide = image if image.dtype == torch.float64 else image.float()
    mean, var = torch.batch_norm_update_stats(wide, None, None, 0.0)
    return mean, var
