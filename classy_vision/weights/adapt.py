"""Weights made to fit another input."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Literal

from torch import Tensor


def adapt_channels(
    native: MutableMapping[str, Any],
    own: Mapping[str, Any],
    how: Literal["mean", "repeat"],
    changed: MutableMapping[str, str],
) -> None:
    """Makes first convolutions that take other channels than the model's fit it.

    The response to an input with the same values in all channels stays as it was.

    Args:
        native: weights by our names; those of the stem are replaced.
        own: the model's.
        how: "mean" of the kernels in every channel, or the kernels "repeat"ed one after the other.
        changed: gets what was done.
    """
    for key, value in native.items():
        target = own.get(key)
        if not key.startswith("stem.") or not isinstance(value, Tensor) or not isinstance(target, Tensor):
            continue
        given, wanted = tuple(value.shape), tuple(target.shape)
        if len(given) < 4 or given[:1] + given[2:] != wanted[:1] + wanted[2:] or given[1] == wanted[1]:
            continue
        before, after = given[1], wanted[1]
        if how == "mean":
            kernels = value.mean(1, keepdim=True).expand(wanted)
        else:
            kernels = value[:, [channel % before for channel in range(after)]]
        native[key] = kernels * (before / after)
        changed[key] = f"{before} input channels to {after}, {how}"
