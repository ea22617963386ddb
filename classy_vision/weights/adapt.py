"""Weights made to fit another input."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.layers.positions import in_front
from classy_vision.layers.tokens import PREFIX, Tokens
from classy_vision.weights.methods import Channels, ClassToken, Patches

NEW = "new: the file has none"
"""What a report says of tensors that come from no file."""

CLASS_TOKEN = "stem.class_token"
_PATCHES, _POSITIONS = "stem.proj.weight", "stem.positions"


def adapt_channels(
    native: MutableMapping[str, Any], own: Mapping[str, Any], how: Channels, changed: MutableMapping[str, str]
) -> None:
    """Makes first convolutions that take other channels than the model's fit it.

    But for "new", the response to an input with the same values in all channels stays as it was.

    Args:
        native: weights by our names; those of the stem are replaced.
        own: the model's.
        how: "mean" of the kernels in every channel, the kernels "repeat"ed one after the other, or
            "new" ones (He et al., "Delving Deep into Rectifiers", 2015).
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
        if how == "new":
            kernels = torch.empty(wanted, dtype=value.dtype)
            native[key] = nn.init.kaiming_normal_(kernels, mode="fan_out", nonlinearity="relu")
            note(changed, key, f"new: the file's is for {before} input channels")
            continue
        if how == "mean":
            kernels = value.mean(1, keepdim=True).expand(wanted)
        else:
            kernels = value[:, [channel % before for channel in range(after)]]
        native[key] = kernels * (before / after)
        note(changed, key, f"{before} input channels to {after}, {how}")


# -- vision transformers


def adapt_patches(
    native: MutableMapping[str, Any], stem: nn.Module | None, how: Patches, changed: MutableMapping[str, str]
) -> None:
    """Makes a patch embedding for another patch size fit.

    A patch that is enlarged as ``how`` says gives the token that it gave before (Beyer et al.,
    "FlexiViT: One Model for All Patch Sizes", 2023, section 3.4).

    Args:
        native: weights by our names; that of the patch embedding is replaced.
        stem: the model's; one without a patch embedding is left alone.
        how: the interpolation of patches: that of FlexiViT is "bilinear", that of timm for other
            models "bicubic_antialias".
        changed: gets what was done.
    """
    kernel = native.get(_PATCHES)
    if not isinstance(stem, Tokens) or not isinstance(stem.proj, nn.Conv2d) or not isinstance(kernel, Tensor):
        return
    before, after = kernel.shape[2:], stem.proj.weight.shape[2:]
    if kernel.dim() == 4 and before != after:
        native[_PATCHES] = resized_patches(kernel, (after[0], after[1]), how)
        note(changed, _PATCHES, f"patches of {_by(before)} pixels to {_by(after)}, {how}")


def resized_patches(kernel: Tensor, size: tuple[int, int], how: Patches) -> Tensor:
    """Kernels of patches for patches of another size; see ``adapt_patches``.

    Shape: (d, c, h, w) to (d, c, *size).
    """
    if kernel.is_meta:
        return kernel.new_empty((*kernel.shape[:2], *size))
    rows, columns = (_undone(old, new, how) for old, new in zip(kernel.shape[2:], size))
    resized = torch.einsum("dchw,hH,wW->dcHW", kernel.double(), rows, columns)
    return resized.to(kernel.dtype).contiguous()


def _undone(old: int, new: int, how: Patches) -> Tensor:
    """The pseudo-inverse of a resize along one axis. Shape: (old, new)."""
    mode, _, antialias = how.partition("_")
    basis = torch.eye(old, dtype=torch.double).reshape(1, 1, old, old)
    resize = F.interpolate(basis, (new, old), mode=mode, antialias=bool(antialias))
    return torch.linalg.pinv(resize[0, 0])


def _by(size: torch.Size) -> str:
    return "x".join(map(str, size))


def adapt_class_token(
    native: MutableMapping[str, Any],
    stem: nn.Module | None,
    how: ClassToken,
    changed: MutableMapping[str, str],
    dropped: MutableMapping[str, str],
) -> None:
    """Leaves a class token out for a model without one, or makes one for a model that has one.

    Args:
        native: weights by our names; tokens and positions are replaced.
        stem: the model's; one without tokens is left alone.
        how: "drop" the file's, with its position, or make a "new" one that is zero, as in a new
            model, and has no position.
        changed: gets what was done.
        dropped: gets what was left out.
    """
    given = native.get(_POSITIONS)
    if not isinstance(stem, Tokens) or not isinstance(given, Tensor) or given.dim() != 3:
        return
    tokens = (native.get(f"stem.{name}") for name in PREFIX)
    prefix = sum(token.shape[1] for token in tokens if isinstance(token, Tensor))
    placed = in_front(given.shape[1], prefix, prefix, stem.grid)[0]
    if how == "drop" and CLASS_TOKEN in native and stem.class_token is None:
        del native[CLASS_TOKEN]
        dropped[CLASS_TOKEN] = "the model has no class token"
        if placed:
            native[_POSITIONS] = given[:, 1:]
            note(changed, _POSITIONS, "without that of the class token")
    if how == "new" and CLASS_TOKEN not in native and stem.class_token is not None:
        native[CLASS_TOKEN] = torch.zeros(stem.class_token.shape, dtype=given.dtype)
        note(changed, CLASS_TOKEN, NEW)
        if stem.placed:
            native[_POSITIONS] = torch.cat([torch.zeros_like(given[:, :1]), given], 1)
            note(changed, _POSITIONS, "with zero for the new class token")


def note(changed: MutableMapping[str, str], key: str, what: str) -> None:
    """Adds to what was done with a tensor."""
    changed[key] = f"{changed[key]}, {what}" if key in changed else what


def advice(native: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    """The arguments of ``load_weights`` that would make weights fit which do not."""
    given, wanted = native.get(_PATCHES), own.get(_PATCHES)
    found = []
    if isinstance(given, Tensor) and isinstance(wanted, Tensor) and given.shape[2:] != wanted.shape[2:]:
        found.append("patches='bicubic_antialias' resizes the patch embedding")
    if (CLASS_TOKEN in native) != (CLASS_TOKEN in own) and _POSITIONS in native and _POSITIONS in own:
        drop, new = "class_token='drop' leaves the class token out", "class_token='new' makes a class token"
        found.append(drop if CLASS_TOKEN in native else new)
    return found
