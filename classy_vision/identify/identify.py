"""The config of the model that a file's tensors belong to, found from their names and shapes.

Each layout of each family is tried: its rows give the tensors our names, and from those the family's
``shapes`` read a config. A preset is preferred where it has the same tensors. A config counts only if a
model built from it on the meta device takes all the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from pydantic_core import to_jsonable_python
from torch import Tensor

from classy_vision.config import ConfigError, fits_64_bits
from classy_vision.identify.heads import infer_heads
from classy_vision.models.classy_model import MODELS, build_model
from classy_vision.trunk.loading import load_weights
from classy_vision.trunk.trunk import Trunk
from classy_vision.weights.classy_vision import flatten
from classy_vision.weights.key_map import KeyMap, list_names
from classy_vision.weights.layout import HEAD
from classy_vision.weights.shapes import FamilyShapes, Inferred, Shapes, count_blocks
from classy_vision.weights.state import head_of

MAX_TRIED = 200
"""The number of keys by which the nearest layout is found where none fits."""
MAX_BLOCKS = 1000
"""The largest number of blocks of a model that is built to compare it with a file."""


@dataclass(frozen=True)
class Identity:
    """The model that a file's tensors belong to.

    Attributes:
        family: "resnext", "vision_transformer", …
        layouts: the libraries whose key names the file has; some libraries share names.
        config: builds a model with exactly these tensors.
        is_preset: whether the config is that of a preset, apart from its heads.
        unseen: options that no tensor shows; the config has the values of the preset, or the defaults.
    """

    family: str
    layouts: tuple[str, ...]
    config: dict[str, Any]
    is_preset: bool
    unseen: tuple[str, ...]


def identify(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of a model that has exactly the tensors of ``state``, for ``build_model``.

    Options that tensors do not show have the values of the preset that fits, or the defaults: the
    epsilon of norms, strides, padding, activations, and the number of heads of the attention.

    Args:
        state: a state dict in any layout of any family, or {name: shape}.

    Raises:
        ConfigError: no model fits; the message names the nearest one.
    """
    return examine(state).config


def examine(state: Mapping[str, Any]) -> Identity:
    """Does what ``identify`` does, and returns everything that was found.

    Raises:
        ConfigError: no model fits; the message names the nearest one.
    """
    theirs = _make_outlines(flatten(state))
    tried: list[tuple[int, str]] = []
    for family in list_families():
        readings = list(_read_names(theirs, family))
        for layout, native in readings:
            config = _find_config(native, family, tried, layout)
            if config is None or not _can_load(config, theirs, layout, tried):
                continue
            same = tuple(dict.fromkeys(name for name, other in readings if other == native))
            exact = set(config) <= {"name", "heads", "num_classes"} and MODELS[config["name"]].is_preset
            return Identity(family.name, same, config, exact, family.unseen)
    raise ConfigError(_describe_nearest(theirs, tried))


def list_families() -> list[FamilyShapes]:
    """Lists the families whose configs can be read from shapes, in the order in which they are tried."""
    found = dict.fromkeys(entry.cls.shapes for entry in MODELS if entry.cls.shapes is not None)
    return sorted(found, key=lambda family: family.is_general)


def _make_outlines(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Makes tensors without data from tensors or shapes."""
    shapes = {key: getattr(value, "shape", value) for key, value in state.items()}
    odd = [key for key, shape in shapes.items() if not _is_shape(shape)]
    if odd or not shapes:
        raise ConfigError(f"not a state dict of tensors: {list_names('entry', odd) if odd else 'it is empty'}")
    return {key: torch.empty(tuple(shape), device="meta") for key, shape in shapes.items()}


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and all(isinstance(size, int) and size >= 0 for size in value)
        and fits_64_bits(8 * math.prod(max(size, 1) for size in value))  # torch's strides
    )


# -- names


def _read_names(theirs: Mapping[str, Tensor], family: FamilyShapes) -> Iterator[tuple[str, Shapes]]:
    """Yields our names and shapes for each layout that knows all of theirs."""
    if all(key.split(".")[0] in ("stem", "blocks", "tail", "heads") for key in theirs):
        yield "native", _get_shapes(theirs)
    for layout, key_map in _make_key_maps(theirs, family):
        known = theirs
        if layout == "classy_vision":
            known = {_unwrap(key, key_map): v for key, v in theirs.items()}
        trunk = {k: v for k, v in known.items() if layout != "classy_vision" or not head_of(k)}
        if not trunk or not all(map(key_map.knows, trunk)):
            continue
        try:
            native = key_map.load(trunk)
        except (ConfigError, RuntimeError):  # another config's rows; shapes that cannot be cut so
            continue
        yield layout, _get_shapes({**native, **{k: v for k, v in known.items() if k not in trunk}})


def _make_key_maps(theirs: Mapping[str, Tensor], family: FamilyShapes) -> Iterator[tuple[str, KeyMap]]:
    layouts = MODELS[family.name].cls.layouts
    for layout, rows in layouts.items():
        for probe in family.probes(theirs):
            values = dict(probe)
            blocks = values.pop("blocks", ())
            yield layout, rows.key_map(layout, SimpleNamespace(**values), blocks)


def _unwrap(key: str, key_map: KeyMap) -> str:
    return key if key_map.to_native(key) else key.replace("._module.", ".")


def _get_shapes(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


# -- configs


def _find_config(
    native: Shapes, family: FamilyShapes, tried: list[tuple[int, str]], layout: str
) -> dict[str, Any] | None:
    """Returns a config whose trunk has the tensors of ``native``, with its heads."""
    trunk = {key: shape for key, shape in native.items() if not head_of(key) and not key.startswith(HEAD)}
    if sum(count_blocks(trunk)) > min(len(trunk), MAX_BLOCKS):  # each block has a tensor
        return None
    try:
        inferred = family.infer(trunk)
    except (KeyError, IndexError, ZeroDivisionError, ValueError):  # names of another family
        return None
    for config in _list_candidates(inferred, trunk, family):
        own = _get_trunk(config)
        if own == trunk:
            return {**config, **infer_heads(native, config)}
        odd = [key for key in {**trunk, **own} if trunk.get(key) != own.get(key)]
        near = f"{config['name']} in the {layout} layout, but {list_names('tensor', odd)} differ"
        tried.append((len(trunk) - len(odd), near))
    return None


def _list_candidates(inferred: Inferred, trunk: Shapes, family: FamilyShapes) -> list[dict[str, Any]]:
    """Lists presets with as many blocks, those with the fewest changes first, and the inferred config."""
    wanted = count_blocks(trunk)
    presets = [entry for entry in MODELS if entry.is_preset and entry.cls.shapes is family]
    rows = [
        ({"name": entry.name}, entry.preset)
        for entry in presets
        if family.depths(_get_config_class(entry.name).parse(entry.preset)) == wanted
    ]
    sizes = to_jsonable_python(inferred.sizes)
    found = [
        {**named, **_list_changes(named["name"], row, inferred.options), **variant}
        for named, row in [*rows, ({"name": family.name, **sizes}, sizes)]
        for variant in ({}, *family.variants)
        if variant.keys() <= set(_get_config_class(named["name"]).model_fields)
    ]
    return sorted(found, key=len)


def _list_changes(name: str, sizes: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the ``options`` that differ from ``sizes`` and from the defaults."""
    fields = _get_config_class(name).model_fields
    usual = {key: sizes.get(key, field.default) for key, field in fields.items()}
    usual, given = to_jsonable_python((usual, options), fallback=str)  # a default that is missing
    return {key: value for key, value in given.items() if key in fields and usual[key] != value}


def _get_config_class(name: str) -> Any:
    return MODELS[name].cls.config_class


def _get_trunk(config: Mapping[str, Any]) -> Shapes:
    try:
        with torch.device("meta"):
            return _get_shapes(build_model({**config, "heads": []}).state_dict())
    except ConfigError:  # inferred from other shapes than the family's
        return {}


def _can_load(
    config: Mapping[str, Any], theirs: Mapping[str, Tensor], layout: str, tried: list[tuple[int, str]]
) -> bool:
    """Tells whether a model of ``config`` takes all the tensors, those of heads included."""
    try:
        with torch.device("meta"):
            model = build_model(config)
            assert isinstance(model, Trunk)
            load_weights(model, dict(theirs), layout=layout)
    except ConfigError as error:
        tried.append((0, f"{config['name']} in the {layout} layout, but {error}"))
        return False
    return True


def _describe_nearest(theirs: Mapping[str, Tensor], tried: list[tuple[int, str]]) -> str:
    families = ", ".join(family.name for family in list_families())
    text = f"no model of {families} has these {list_names('tensor', theirs)}"
    if tried:
        return f"{text}; nearest is {max(tried, key=lambda entry: entry[0])[1]}"
    tried_keys = list(theirs)[:: len(theirs) // MAX_TRIED + 1]
    known = {
        f"{family.name} in the {layout} layout": sum(map(key_map.knows, tried_keys))
        for family in list_families()
        for layout, key_map in _make_key_maps(theirs, family)
    }
    best = max(known, key=lambda name: known[name])
    if not known[best]:
        return f"{text}: no layout knows any of their names"
    return f"{text}; nearest is {best}, which knows the names of {known[best]} of {len(tried_keys)}"
