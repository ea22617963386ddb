"""From the names and shapes of a file's tensors to the config of the network that they are of.

Each layout of each family is tried: its rows give the tensors our names, and from those a small
function per family reads a config. A preset's is preferred where it has the same tensors. Nothing is
believed that a model built on the meta device does not have.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from classy_vision.config import ConfigError, fits_64_bits
from classy_vision.identify.families import FAMILIES, Family
from classy_vision.identify.heads import heads_of
from classy_vision.identify.shapes import Inferred, Shapes, depths
from classy_vision.models.classy_model import MODELS, build_model
from classy_vision.trunk.loadable_trunk import LoadableTrunk
from classy_vision.trunk.loading import load_weights
from classy_vision.weights.classy_vision import flatten
from classy_vision.weights.key_map import KeyMap, list_names
from classy_vision.weights.layout import HEAD
from classy_vision.weights.state import head_of

MAX_TRIED = 200
"""Keys by which the nearest layout is found where none fits."""
MAX_BLOCKS = 1000
"""Of a network that is built to see whether it has a file's tensors."""


@dataclass(frozen=True)
class Identity:
    """What a file's tensors are of.

    Attributes:
        family: "resnext", "vision_transformer", …
        layouts: whose names they have; several share some.
        config: builds a model with exactly these tensors.
        is_preset: whether the config is a preset's, but for its heads.
        unseen: options that no tensor shows; the config has the preset's values, or the defaults.
    """

    family: str
    layouts: tuple[str, ...]
    config: dict[str, Any]
    is_preset: bool
    unseen: tuple[str, ...]


def identify(state: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a model that has exactly the tensors of ``state``, for ``build_model``.

    What tensors do not show has the values of the preset that they fit, or the defaults: the
    epsilon of norms, strides, padding, activations, and how many heads attention has.

    Args:
        state: a state dict in any layout of any family, or {name: shape}.

    Raises:
        ConfigError: nothing fits; the message says what is nearest.
    """
    return examine(state).config


def examine(state: Mapping[str, Any]) -> Identity:
    """As ``identify``, with what was found on the way.

    Raises:
        ConfigError: nothing fits; the message says what is nearest.
    """
    theirs = _outlines(flatten(state))
    tried: list[tuple[int, str]] = []
    for family in FAMILIES:
        readings = list(_readings(theirs, family))
        for layout, native in readings:
            config = _fitting(native, family, tried, layout)
            if config is None or not _loads(config, theirs, layout, tried):
                continue
            same = tuple(dict.fromkeys(name for name, other in readings if other == native))
            exact = set(config) <= {"name", "heads", "num_classes"} and MODELS[config["name"]].is_preset
            return Identity(family.name, same, config, exact, family.unseen)
    raise ConfigError(_nothing(theirs, tried))


def _outlines(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors without numbers, of tensors or shapes."""
    shapes = {key: getattr(value, "shape", value) for key, value in state.items()}
    odd = [key for key, shape in shapes.items() if not _is_shape(shape)]
    if odd or not shapes:
        raise ConfigError(f"no state dict of tensors: {list_names('entry', odd) if odd else 'it is empty'}")
    return {key: torch.empty(tuple(shape), device="meta") for key, shape in shapes.items()}


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and all(isinstance(size, int) and size >= 0 for size in value)
        and fits_64_bits(8 * math.prod(max(size, 1) for size in value))  # torch's strides
    )


# -- names


def _readings(theirs: Mapping[str, Tensor], family: Family) -> Iterator[tuple[str, Shapes]]:
    """Our names and shapes, by each layout that knows all of theirs."""
    if all(key.split(".")[0] in ("stem", "blocks", "tail", "heads") for key in theirs):
        yield "native", _shapes(theirs)
    for layout, key_map in _maps(theirs, family):
        known = theirs
        if layout == "classy_vision":
            known = {_unwrapped(key, key_map): v for key, v in theirs.items()}
        trunk = {k: v for k, v in known.items() if layout != "classy_vision" or not head_of(k)}
        if not trunk or not all(map(key_map.knows, trunk)):
            continue
        try:
            native = key_map.load(trunk)
        except (ConfigError, RuntimeError):  # another config's rows; shapes that cannot be cut so
            continue
        yield layout, _shapes({**native, **{k: v for k, v in known.items() if k not in trunk}})


def _maps(theirs: Mapping[str, Tensor], family: Family) -> Iterator[tuple[str, KeyMap]]:
    layouts = MODELS[family.name].cls.layouts
    for layout, rows in layouts.items():
        for probe in family.probes(theirs):
            values = dict(probe)
            blocks = values.pop("blocks", ())
            yield layout, rows.key_map(layout, SimpleNamespace(**values), blocks)


def _unwrapped(key: str, key_map: KeyMap) -> str:
    return key if key_map.to_native(key) else key.replace("._module.", ".")


def _shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


# -- configs


def _fitting(
    native: Shapes, family: Family, tried: list[tuple[int, str]], layout: str
) -> dict[str, Any] | None:
    """A config whose trunk has the tensors of ``native``, with its heads."""
    trunk = {key: shape for key, shape in native.items() if not head_of(key) and not key.startswith(HEAD)}
    if sum(depths(trunk)) > min(len(trunk), MAX_BLOCKS):  # each block has a tensor
        return None
    try:
        inferred = family.infer(trunk)
    except (KeyError, IndexError, ZeroDivisionError, ValueError):  # names of another family
        return None
    for config in _candidates(inferred, trunk, family):
        own = _trunk_of(config)
        if own == trunk:
            return {**config, **heads_of(native, config)}
        odd = [key for key in {**trunk, **own} if trunk.get(key) != own.get(key)]
        near = f"{config['name']} in the {layout} layout, but {list_names('tensor', odd)} differ"
        tried.append((len(trunk) - len(odd), near))
    return None


def _candidates(inferred: Inferred, trunk: Shapes, family: Family) -> list[dict[str, Any]]:
    """Presets of as many blocks, those with fewest changes first; then the inferred config."""
    wanted = depths(trunk)
    families = (family.name, *family.others)
    presets = [entry for entry in MODELS if entry.is_preset and entry.family in families]
    rows = [
        ({"name": entry.name}, entry.preset)
        for entry in presets
        if family.depths(_config_class(entry.name).parse(entry.preset)) == wanted
    ]
    sizes = {key: _plain(value) for key, value in inferred.sizes.items()}
    found = [
        {**named, **_changes(named["name"], row, inferred.options), **variant}
        for named, row in [*rows, ({"name": family.name, **sizes}, sizes)]
        for variant in ({}, *family.variants)
        if variant.keys() <= set(_config_class(named["name"]).model_fields)
    ]
    return sorted(found, key=len)


def _changes(name: str, sizes: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``options`` that ``sizes`` and defaults leave otherwise."""
    fields = _config_class(name).model_fields
    usual = {key: sizes.get(key, field.default) for key, field in fields.items()}
    return {k: _plain(v) for k, v in options.items() if k in fields and _plain(usual[k]) != _plain(v)}


def _config_class(name: str) -> Any:
    return MODELS[name].cls.config_class


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _trunk_of(config: Mapping[str, Any]) -> Shapes:
    try:
        with torch.device("meta"):
            return _shapes(build_model({**config, "heads": []}).state_dict())
    except ConfigError:  # inferred from other shapes than the family's
        return {}


def _loads(
    config: Mapping[str, Any], theirs: Mapping[str, Tensor], layout: str, tried: list[tuple[int, str]]
) -> bool:
    """Whether a model of ``config`` takes the tensors, heads too."""
    try:
        with torch.device("meta"):
            model = build_model(config)
            assert isinstance(model, LoadableTrunk)
            load_weights(model, dict(theirs), layout=layout)
    except ConfigError as error:
        tried.append((0, f"{config['name']} in the {layout} layout, but {error}"))
        return False
    return True


def _nothing(theirs: Mapping[str, Tensor], tried: list[tuple[int, str]]) -> str:
    families = ", ".join(family.name for family in FAMILIES)
    text = f"no network of {families} has these {list_names('tensor', theirs)}"
    if tried:
        return f"{text}; nearest is {max(tried, key=lambda entry: entry[0])[1]}"
    tried_keys = list(theirs)[:: len(theirs) // MAX_TRIED + 1]
    known = {
        f"{family.name} in the {layout} layout": sum(map(key_map.knows, tried_keys))
        for family in FAMILIES
        for layout, key_map in _maps(theirs, family)
    }
    best = max(known, key=lambda name: known[name])
    if not known[best]:
        return f"{text}: no layout knows any of their names"
    return f"{text}; nearest is {best}, which knows the names of {known[best]} of {len(tried_keys)}"
