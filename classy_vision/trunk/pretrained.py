"""Weights of other libraries: loaded whole or not at all, and written back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from classy_vision.config import ConfigError, unknown
from classy_vision.heads.classy_head import ClassyHead
from classy_vision.resolve import TRAINED, check_kind
from classy_vision.trunk.head_places import (
    end_heads,
    id_of,
    ids_of,
    real_key,
    shape_of,
    skipped,
    target_of,
    unfit,
    virtual_key,
)
from classy_vision.trunk.loadable_trunk import LoadableTrunk
from classy_vision.weights.classy_vision import flatten
from classy_vision.weights.detect import choose, stripped
from classy_vision.weights.files import read_tensors, write_tensors
from classy_vision.weights.fitting import NEW, Fitting, fit_channels
from classy_vision.weights.key_map import KeyMap
from classy_vision.weights.layout import HEAD
from classy_vision.weights.methods import Channels, ClassToken, Patches
from classy_vision.weights.report import Report
from classy_vision.weights.sources import find_file
from classy_vision.weights.state import StateError, head_of

OURS = ("native", "classy_vision")
"""Layouts that hold any heads, not only one at the end of the trunk."""


def load_weights(
    model: LoadableTrunk,
    source: str | Path | Mapping[str, Any],
    *,
    layout: str | None = None,
    head: str | None = None,
    skip_heads: bool | Iterable[str] | Literal["unfit"] = (),
    channels: Channels | None = None,
    patches: Patches | None = None,
    class_token: ClassToken | None = None,
    prefix: str = "",
) -> Report:
    """Loads weights in any layout the family knows, or raises and changes nothing.

    A classifier in the file goes to the head at the end of the trunk. Every tensor of the model
    must be in the file, and every one of the file must have a place.

    Args:
        model: its weights are replaced; on the meta device it gets memory by this.
        source: a ``.safetensors`` or torch file, a run folder, the name of published weights
            ("timm/resnet50.a1_in1k", "torchvision/resnet50.IMAGENET1K_V2"), a repository of the
            Hugging Face hub ("hf-hub:owner/name"), or a state dict.
        layout: whose key names the file has, where it should not be found from them.
        head: the id of the head that the file's classifier is for, where several are at the end.
        skip_heads: heads that the file is not for, by id; True for all, "unfit" for those that the
            file does not hold in their shape. They keep their weights.
        channels: how a first convolution for other channels is made: each kernel the mean of the
            file's, or the file's one after the other, scaled to the same response to grey; or a new
            one.
        patches: how a patch embedding for another patch size is made: with the pseudo-inverse of
            this interpolation, so that a patch enlarged by it gives the same token.
        class_token: "drop" leaves the file's out, with its position, for a model without one;
            "new" makes one, of zeros, where the file has none.
        prefix: keys of the file that do not begin with it are left out, and it is removed.

    Raises:
        ConfigError: the file cannot be read, or a name is unknown.
        StateError: keys or shapes that are not the model's.
    """
    fitting = Fitting(channels, patches, class_token)
    fitting.check()
    name = "a state dict" if isinstance(source, Mapping) else str(source)
    found_source = find_source(source)
    whole = flatten(found_source if isinstance(found_source, Mapping) else read_tensors(found_source))
    short = stripped(whole, prefix) if prefix else {key: key for key in whole}
    state = {short[key]: whole[key] for key in short}
    found = _layout(model, state, layout)
    changed, dropped = fitting.changed, fitting.dropped
    dropped.update({key: f"not behind {prefix!r}" for key in whole if key not in short})
    if found in OURS:
        native = model._rename(state)
    else:
        key_map = model.foreign_key_maps()[found]
        target = None if _of_no_head(state, key_map) else target_of(model, head, skip_heads == "unfit")
        native = _renamed(model, state, key_map, target, changed, dropped)
    skip = unfit(model, native) if skip_heads == "unfit" else skipped(model, native, skip_heads)
    for key in [key for key in native if id_of(key) in skip]:
        dropped[key] = "of a head that is skipped"
        del native[key]
    own = model.state_dict()
    kept = {key: value for key, value in own.items() if id_of(key) in skip}
    try:
        native = model.fit(native, fitting)
        if channels is not None:
            native = fit_channels(native, own, fitting)
        _fill(model, {**kept, **native})
    except ConfigError as error:
        odd = ids_of(key for key in own if key not in kept and shape_of(own[key]) != shape_of(native.get(key)))
        hints = [f"skip_heads={sorted(odd)} leaves those heads as they are"] if odd else []
        raise StateError("; ".join([str(error), *hints, *fitting.advice])) from None
    loaded = tuple(key for key in native if changed.get(key) != NEW)
    return Report(name, found, loaded, changed, dropped, tuple(sorted(skip & ids_of(own))))


def save_weights(
    model: LoadableTrunk, path: str | Path, *, layout: str = "native", skip_heads: bool | Iterable[str] = ()
) -> None:
    """Writes the weights as a ``.safetensors`` file in any layout the family knows.

    The file is written beside its place and renamed: a crash leaves an old one as it was.

    Args:
        model: whose weights.
        path: the file; one that is there is replaced.
        layout: "native", "classy_vision", or that of another library, which has a place for one
            classifier at the end of the trunk.
        skip_heads: heads to leave out, by id; True for all.

    Raises:
        ConfigError: no such layout or head, or a tensor that the layout has no place for.
    """
    write_tensors(path, to_layout(model, layout, skip_heads), {"layout": layout})


def to_layout(model: LoadableTrunk, layout: str, skip_heads: bool | Iterable[str] = ()) -> dict[str, Tensor]:
    """The state dict of ``model`` as another library names it; see ``save_weights``."""
    maps = model.foreign_key_maps()
    check_layout(type(model), layout)
    state = model.state_dict()
    skip = skipped(model, state, skip_heads)
    state = {key: value for key, value in state.items() if id_of(key) not in skip}
    if layout == "native":
        return state
    if layout == "classy_vision":
        key_map = model.key_map()
        return _classy(state, key_map) if key_map else state
    ends = end_heads(model)
    targets = {name for name in ends if ends[name].unique_id not in skip}
    lost = sorted({str(head_of(key)) for key in state if head_of(key)} - targets)
    if lost or len(targets) > 1:
        names = [name.split(".")[2] for name in lost or sorted(targets)]
        raise ConfigError(
            f"the {layout} layout has one classifier, at the end of the trunk, and no place for the "
            f"heads {', '.join(names)}: name those to leave out in skip_heads"
        )
    return maps[layout].save({virtual_key(key, ends): value for key, value in state.items()})


def check_layout(family: type[LoadableTrunk], layout: str) -> None:
    """Raises an UnknownNameError where ``family`` cannot be written so."""
    if layout not in (*OURS, *family.layouts):
        raise unknown("layout", layout, dict.fromkeys([*OURS, *family.layouts]), family.__name__)


# -- loading


def find_source(source: Any) -> Any:
    """The file that ``source`` means, where it is no state dict.

    Raises:
        ConfigError: there is none, or it cannot be had.
    """
    if isinstance(source, (str, Path)):
        check_kind(source, TRAINED, "load_weights")
        return find_file(source)
    if isinstance(source, Mapping):
        return source
    raise ConfigError(f"weights = {source!r}: the name of a file or of published weights is needed")


def _layout(model: LoadableTrunk, state: Mapping[str, Any], layout: str | None) -> str:
    """The layout of ``state``, by the keys of the trunk."""
    own = model.state_dict()
    parts = [name for name, _ in model.named_children()]
    maps = {"native": KeyMap("native", [(part, part) for part in parts])}
    keys = [key for key in state if not head_of(key)]
    if key_map := model.key_map():
        maps["classy_vision"] = key_map
        keys = [key if key_map.to_native(key) else key.replace("._module.", ".") for key in keys]
    places = {*own, *model.optional_keys}
    return choose(keys, {**maps, **model.foreign_key_maps()}, places, layout, type(model).__name__)


def _renamed(
    model: LoadableTrunk,
    state: Mapping[str, Any],
    key_map: KeyMap,
    target: tuple[str, ClassyHead] | None,
    changed: dict[str, str],
    dropped: dict[str, str],
) -> dict[str, Any]:
    """``state`` by our names; what was changed and dropped on the way is noted."""
    kind = type(model).__name__
    dropped.update({key: f"{kind} has no use for it" for key in state if key_map.drops(key)})
    native: dict[str, Any] = {}
    for move in key_map.moves(state):
        name = real_key(move.ours, target)
        if name is None:
            dropped.update(dict.fromkeys(move.theirs, "there is no head for it at the end of the trunk"))
            continue
        native[name] = move.load(state)
        if move.transform:
            changed[name] = move.transform.does
    return native


def _of_no_head(state: Iterable[str], key_map: KeyMap) -> bool:
    return not any((key_map.to_native(key) or "").startswith(HEAD) for key in state)


def _fill(model: LoadableTrunk, native: Mapping[str, Any]) -> None:
    """Loads ``native``; a model without memory takes the tensors as its own."""
    own = model.state_dict()
    empty = any(value.is_meta for value in own.values() if isinstance(value, Tensor))
    if empty:
        counts = {
            k: torch.zeros_like(v, device="cpu") for k, v in own.items() if k.endswith("num_batches_tracked")
        }
        native = {
            key: value.to(own[key].dtype) if key in own and isinstance(value, Tensor) else value
            for key, value in {**counts, **native}.items()
        }
    model.load_state_dict(native, assign=empty)


def _classy(state: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    """The original's flat names; heads as ``heads.<block>.<id>``."""
    theirs = {key: value for key, value in state.items() if key_map.to_theirs(key)}
    return {**key_map.save(theirs), **{key: value for key, value in state.items() if key not in theirs}}
