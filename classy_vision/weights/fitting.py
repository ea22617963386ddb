"""Fitting weights to another input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from classy_vision.config import unknown
from classy_vision.weights.methods import Channels, ClassToken, Patches

NEW = "new: the file has none"
"""What a report says of tensors that come from no file."""


@dataclass
class Fitting:
    """How weights are made to fit a model, and what was done to them.

    Attributes:
        channels: how a first convolution for other channels is made; None if it is not.
        patches: how a patch embedding for another patch size is made.
        class_token: whether a class token is dropped or made.
        changed: what was done with tensors, by our names.
        dropped: why tensors of the file were left out.
        advice: arguments of ``load_weights`` that would make other weights fit.
    """

    channels: Channels | None = None
    patches: Patches | None = None
    class_token: ClassToken | None = None
    changed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raises an UnknownNameError for a way that does not exist."""
        for name, ways in (("channels", Channels), ("patches", Patches), ("class_token", ClassToken)):
            value = getattr(self, name)
            if value is not None and value not in get_args(ways):
                raise unknown("way", value, get_args(ways), name)

    def drop(self, keys: Iterable[str], why: str) -> None:
        """Notes why tensors of the file were left out."""
        self.dropped.update(dict.fromkeys(keys, why))

    def note(self, key: str, what: str) -> None:
        """Adds to what was done with a tensor."""
        self.changed[key] = f"{self.changed[key]}, {what}" if key in self.changed else what

    def note_shape(self, key: str, before: Tensor, after: Tensor) -> None:
        """Adds that a tensor was resized, if it was."""
        if before.shape != after.shape:
            self.note(key, f"resized from {tuple(before.shape)} to {tuple(after.shape)}")


def fit_channels(native: Mapping[str, Any], own: Mapping[str, Any], fitting: Fitting) -> dict[str, Any]:
    """Makes first convolutions that take other channels than the model's fit it.

    But for "new", the response to an input with the same values in all channels stays as it was. They are
    the "mean" of the kernels in every channel, the kernels "repeat"ed one after the other, or "new" ones
    (He et al., "Delving Deep into Rectifiers", 2015).

    Args:
        native: weights by our names.
        own: the model's.
        fitting: the way; what was done is noted there.

    Returns:
        ``native``, with those of the stem replaced.
    """
    return {
        key: _fit_kernels(key, value, own[key], fitting)
        if key.startswith("stem.") and _differ_in_channels(value, own.get(key))
        else value
        for key, value in native.items()
    }


def _differ_in_channels(value: Any, target: Any) -> bool:
    if not isinstance(value, Tensor) or not isinstance(target, Tensor) or value.dim() < 4:
        return False
    given, wanted = value.shape, target.shape
    return given[:1] + given[2:] == wanted[:1] + wanted[2:] and given[1] != wanted[1]


def _fit_kernels(key: str, value: Tensor, target: Tensor, fitting: Fitting) -> Tensor:
    before, after, how = value.shape[1], target.shape[1], fitting.channels
    if how == "new":
        fitting.note(key, f"new: the file's is for {before} input channels")
        kernels = torch.empty(target.shape, dtype=value.dtype)
        return nn.init.kaiming_normal_(kernels, mode="fan_out", nonlinearity="relu")
    fitting.note(key, f"{before} input channels to {after}, {how}")
    if how == "mean":
        kernels = value.mean(1, keepdim=True).expand(target.shape)
    else:
        kernels = value[:, [channel % before for channel in range(after)]]
    return kernels * (before / after)
