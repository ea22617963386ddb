"""Weights of vision transformers made to fit other patches, tokens and grids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.models.vision_transformer.positions import in_front, split_positions
from classy_vision.models.vision_transformer.tokens import PREFIX, Tokens
from classy_vision.weights.fitting import NEW, Fitting
from classy_vision.weights.methods import Patches

CLASS_TOKEN = "stem.class_token"
_PATCHES, _POSITIONS = "stem.proj.weight", "stem.positions"


def fit_tokens(native: Mapping[str, Any], stem: Tokens, fitting: Fitting) -> dict[str, Any]:
    """Makes the class token, the patch embedding and the positions fit a model's.

    Args:
        native: weights by our names.
        stem: the model's.
        fitting: how; positions are always made to fit.
    """
    fitted = dict(native)
    _fit_class_token(fitted, stem, fitting)
    _fit_patches(fitted, stem, fitting)
    _fit_positions(fitted, stem, fitting)
    return fitted


def _fit_patches(native: dict[str, Any], stem: Tokens, fitting: Fitting) -> None:
    """Makes a patch embedding for another patch size fit.

    A patch that is enlarged as ``fitting.patches`` says gives the token that it gave before (Beyer et al.,
    "FlexiViT: One Model for All Patch Sizes", 2023, section 3.4). That of FlexiViT is "bilinear", that of
    timm for other models "bicubic_antialias".
    """
    kernel, how = native.get(_PATCHES), fitting.patches
    if not isinstance(stem.proj, nn.Conv2d) or not isinstance(kernel, Tensor) or kernel.dim() != 4:
        return
    before, after = kernel.shape[2:], stem.proj.weight.shape[2:]
    if before == after:
        return
    if how is None:
        fitting.advice.append("patches='bicubic_antialias' resizes the patch embedding")
        return
    native[_PATCHES] = resize_patches(kernel, (after[0], after[1]), how)
    fitting.note(_PATCHES, f"patches of {_by(before)} pixels to {_by(after)}, {how}")


def resize_patches(kernel: Tensor, size: tuple[int, int], how: Patches) -> Tensor:
    """Kernels of patches for patches of another size; see ``_fit_patches``.

    Shape: (d, c, h, w) to (d, c, *size).
    """
    if kernel.is_meta:
        return kernel.new_empty((*kernel.shape[:2], *size))
    rows, columns = (_invert_resize(old, new, how) for old, new in zip(kernel.shape[2:], size))
    resized = torch.einsum("dchw,hH,wW->dcHW", kernel.double(), rows, columns)
    return resized.to(kernel.dtype).contiguous()


def _invert_resize(old: int, new: int, how: Patches) -> Tensor:
    """The pseudo-inverse of a resize along one axis. Shape: (old, new)."""
    mode, _, antialias = how.partition("_")
    basis = torch.eye(old, dtype=torch.double).reshape(1, 1, old, old)
    resize = F.interpolate(basis, (new, old), mode=mode, antialias=bool(antialias))
    return torch.linalg.pinv(resize[0, 0])


def _by(size: torch.Size) -> str:
    return "x".join(map(str, size))


def _fit_class_token(native: dict[str, Any], stem: Tokens, fitting: Fitting) -> None:
    """Leaves a class token out for a model without one, or makes one for a model that has one.

    "drop" leaves out the file's, with its position; "new" makes one that is zero, as in a new model, and has
    no position.
    """
    given, how = native.get(_POSITIONS), fitting.class_token
    has, wants = CLASS_TOKEN in native, stem.class_token is not None
    if not isinstance(given, Tensor) or given.dim() != 3 or has == wants:
        return
    if has and how == "drop":
        placed = _has_placed_prefix(native, given, stem)
        del native[CLASS_TOKEN]
        fitting.dropped[CLASS_TOKEN] = "the model has no class token"
        if placed:
            native[_POSITIONS] = given[:, 1:]
            fitting.note(_POSITIONS, "without that of the class token")
    elif stem.class_token is not None and how == "new":
        native[CLASS_TOKEN] = torch.zeros(stem.class_token.shape, dtype=given.dtype)
        fitting.note(CLASS_TOKEN, NEW)
        if stem.placed:
            native[_POSITIONS] = torch.cat([torch.zeros_like(given[:, :1]), given], 1)
            fitting.note(_POSITIONS, "with zero for the new class token")
    else:
        drop, new = "class_token='drop' leaves the class token out", "class_token='new' makes a class token"
        fitting.advice.append(drop if has else new)


def _has_placed_prefix(native: Mapping[str, Any], given: Tensor, stem: Tokens) -> bool:
    """Whether positions (1, k + h * w, d) have some for the tokens before the patches."""
    tokens = (native.get(f"stem.{name}") for name in PREFIX)
    prefix = sum(token.shape[1] for token in tokens if isinstance(token, Tensor))
    return in_front(given.shape[1], prefix, prefix, stem.grid)[0] > 0


def _fit_positions(native: dict[str, Any], stem: Tokens, fitting: Fitting) -> None:
    """Makes positions learned for other image sizes or tokens fit."""
    given = native.get(_POSITIONS)
    if not isinstance(given, Tensor) or stem.positions is None or given.shape == stem.positions.shape:
        return
    if given.dim() != 3 or given.shape[::2] != stem.positions.shape[::2]:
        return  # the check of shapes tells
    first, patches = split_positions(given, stem.prefix, stem.placed, stem.grid, stem.resize)
    native[_POSITIONS] = torch.cat([first, patches], 1) if stem.placed else patches
    fitting.note_shape(_POSITIONS, given, native[_POSITIONS])
    if stem.placed:
        return
    # A token is the same wherever its position is added to it.
    tokens = {f"stem.{name}": token.shape[1] for name, token in stem.prefix_tokens().items()}
    for key, position in zip(tokens, torch.split(first, list(tokens.values()), 1)):
        if key in native:
            native[key] = native[key] + position
            fitting.note(key, "with its position added")
