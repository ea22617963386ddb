"""Loading weights in any layout that the family knows: whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.resolve import TRAINED, check_kind
from classy_vision.trunk.head_places import (
    find_misfits,
    find_skipped,
    find_target,
    id_of,
    ids_of,
    shape_of,
    to_real_key,
)
from classy_vision.trunk.trunk import Trunk
from classy_vision.weights.classy_vision import flatten, rename
from classy_vision.weights.detect import find_layout, strip_prefix
from classy_vision.weights.files import read_tensors
from classy_vision.weights.fitting import NEW, Fitting, fit_channels
from classy_vision.weights.key_map import KeyMap
from classy_vision.weights.layout import HEAD, OURS
from classy_vision.weights.methods import Channels, ClassToken, Patches
from classy_vision.weights.report import Report
from classy_vision.weights.sources import find_file
from classy_vision.weights.state import StateError, head_of

State = dict[str, Any]
SkipHeads = bool | Iterable[str] | Literal["unfit"]


def load_weights(
    model: Trunk,
    source: str | Path | Mapping[str, Any],
    *,
    layout: str | None = None,
    head: str | None = None,
    skip_heads: SkipHeads = (),
    channels: Channels | None = None,
    patches: Patches | None = None,
    class_token: ClassToken | None = None,
    prefix: str = "",
) -> Report:
    """Loads weights in any layout the family knows, or raises and changes nothing.

    A classifier in the file goes to the head at the end of the trunk. Every tensor of the model
    must be in the file, and every one of the file must have a place.

    Args:
        model: its weights are replaced; a model on the meta device gets memory by this.
        source: a ``.safetensors`` or torch file, a run folder, the name of published weights
            ("timm/resnet50.a1_in1k", "torchvision/resnet50.IMAGENET1K_V2"), a repository of the
            Hugging Face hub ("hf-hub:owner/name"), or a state dict.
        layout: whose key names the file has; by default it is found from the names.
        head: the id of the head that the file's classifier is for, if several are at the end.
        skip_heads: heads that the file is not for, by id; True for all, "unfit" for those that the
            file does not hold in their shape. They keep their weights.
        channels: how a first convolution for other channels is made: each kernel the mean of the
            file's, or the file's one after the other, scaled to the same response to grey; or a new
            one.
        patches: how a patch embedding for another patch size is made: with the pseudo-inverse of
            this interpolation, so that a patch enlarged by it gives the same token.
        class_token: "drop" leaves the file's out, with its position, for a model without one;
            "new" makes one, of zeros, for a file without one.
        prefix: keys of the file that do not begin with it are left out, and it is removed.

    Raises:
        ConfigError: the file cannot be read, or a name is unknown.
        StateError: keys or shapes that are not the model's.
    """
    fitting = Fitting(channels, patches, class_token)
    fitting.check()
    return _Loading(model, fitting, head, skip_heads).run(source, layout, prefix)


@dataclass
class _Loading:
    """Weights on their way from a file into a model.

    Attributes:
        model: what is filled.
        fitting: how weights are made to fit, and what was done to them.
        head: the id of the head that the file's classifier is for.
        skip_heads: the heads that keep their weights.
    """

    model: Trunk
    fitting: Fitting
    head: str | None
    skip_heads: SkipHeads

    def run(self, source: Any, layout: str | None, prefix: str) -> Report:
        """All steps, in their order."""
        state = self.read(source, prefix)
        layout = self.find_layout(state, layout)
        native = self.rename(state, layout)
        kept = self.take_heads_out(native)
        native = self.fit_and_fill(native, kept, shared=isinstance(source, Mapping))
        name = "a state dict" if isinstance(source, Mapping) else str(source)
        loaded = tuple(key for key in native if self.fitting.changed.get(key) != NEW)
        ids = tuple(sorted(ids_of(kept)))
        return Report(name, layout, loaded, self.fitting.changed, self.fitting.dropped, ids)

    def read(self, source: Any, prefix: str) -> State:
        """The flat state dict in ``source``, without ``prefix``."""
        found = find_source(source)
        whole = flatten(found if isinstance(found, Mapping) else read_tensors(found))
        if not prefix:
            return whole
        names = strip_prefix(whole, prefix)
        self.fitting.drop((key for key in whole if key not in names), f"it does not begin with {prefix!r}")
        return {name: whole[key] for key, name in names.items()}

    def find_layout(self, state: Mapping[str, Any], layout: str | None) -> str:
        """The layout of ``state``, by the keys of the trunk."""
        model = self.model
        maps = {"native": KeyMap("native", [(part, part) for part, _ in model.named_children()])}
        keys = [key for key in state if not head_of(key)]
        if key_map := model.key_map():
            maps["classy_vision"] = key_map
            keys = [key if key_map.to_native(key) else key.replace("._module.", ".") for key in keys]
        places = {*model.state_dict(), *model.optional_keys}
        return find_layout(keys, {**maps, **model.foreign_key_maps()}, places, layout, type(model).__name__)

    def rename(self, state: Mapping[str, Any], layout: str) -> State:
        """``state`` by our names; a classifier of another library gets that of the head that it is for."""
        if layout in OURS:
            names = {key for key in self.model.state_dict() if not head_of(key)}
            return rename(state, self.model.key_map(), names, strict=True)
        key_map = self.model.foreign_key_maps()[layout]
        unused = (key for key in state if key_map.drops(key))
        self.fitting.drop(unused, f"{type(self.model).__name__} has no use for it")
        moves = key_map.moves(state)
        classifies = any(move.ours.startswith(HEAD) for move in moves)
        target = find_target(self.model, self.head, self.skip_heads == "unfit") if classifies else None
        native: State = {}
        for move in moves:
            name = to_real_key(move.ours, target)
            if name is None:
                self.fitting.drop(move.theirs, "there is no head for it at the end of the trunk")
                continue
            native[name] = move.load(state)
            if move.transform:
                self.fitting.note(name, move.transform.does)
        return native

    def take_heads_out(self, native: State) -> State:
        """Removes what is of skipped heads from ``native``, and gives the weights that they keep."""
        if self.skip_heads == "unfit":
            skipped = find_misfits(self.model, native)
        else:
            skipped = find_skipped(self.model, native, self.skip_heads)
        unused = [key for key in native if id_of(key) in skipped]
        self.fitting.drop(unused, "of a head that is skipped")
        for key in unused:
            del native[key]
        return {key: value for key, value in self.model.state_dict().items() if id_of(key) in skipped}

    def fit_and_fill(self, native: State, kept: State, shared: bool) -> State:
        """Makes ``native`` fit the model, checks that it does, and loads it; errors say what would help.

        Args:
            native: by our names.
            kept: the weights of the heads that are skipped.
            shared: whether someone else has the tensors as well.
        """
        own = self.model.state_dict()
        try:
            native = self.model.fit(native, self.fitting)
            if self.fitting.channels is not None:
                native = fit_channels(native, own, self.fitting)
            _fill(self.model, {**kept, **native}, copy=shared)
        except ConfigError as error:
            wrong = (key for key in own if key not in kept and shape_of(own[key]) != shape_of(native.get(key)))
            heads = sorted(ids_of(wrong))
            hints = [f"skip_heads={heads} leaves those heads as they are"] if heads else []
            raise StateError("; ".join([str(error), *hints, *self.fitting.advice])) from None
        return native


def find_source(source: Any) -> Any:
    """The file that ``source`` means, unless it is a state dict.

    Raises:
        ConfigError: there is no such file, or it cannot be downloaded.
    """
    if isinstance(source, (str, Path)):
        check_kind(source, TRAINED, "load_weights")
        return find_file(source)
    if isinstance(source, Mapping):
        return source
    raise ConfigError(f"weights = {source!r}: the name of a file or of published weights is needed")


def _fill(model: Trunk, native: Mapping[str, Any], copy: bool) -> None:
    """Loads ``native``; a model without memory takes the tensors as its own, or copies of them."""
    own = model.state_dict()
    empty = any(value.is_meta for value in own.values() if isinstance(value, Tensor))
    if empty:
        counts = {
            k: torch.zeros_like(v, device="cpu") for k, v in own.items() if k.endswith("num_batches_tracked")
        }
        native = {
            key: value.to(own[key].dtype, copy=copy) if key in own and isinstance(value, Tensor) else value
            for key, value in {**counts, **native}.items()
        }
    model.load_state_dict(native, assign=empty)
