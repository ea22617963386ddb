"""Saving weights in any layout that the family knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from classy_vision.config import ConfigError, unknown
from classy_vision.trunk.head_places import find_end_heads, find_skipped, id_of, to_virtual_key
from classy_vision.trunk.trunk import Trunk
from classy_vision.weights.files import write_tensors
from classy_vision.weights.key_map import KeyMap
from classy_vision.weights.layout import OURS
from classy_vision.weights.state import head_of


def save_weights(
    model: Trunk, path: str | Path, *, layout: str = "native", skip_heads: bool | Iterable[str] = ()
) -> None:
    """Writes the weights as a ``.safetensors`` file in any layout the family knows.

    The file is written beside its place and renamed: a crash leaves an old one as it was.

    Args:
        model: whose weights are written.
        path: of the file; a file that exists there is replaced.
        layout: "native", "classy_vision", or that of another library, which has a place for one
            classifier at the end of the trunk.
        skip_heads: heads to leave out, by id; True for all.

    Raises:
        ConfigError: no such layout or head, or a tensor that the layout has no place for.
    """
    write_tensors(path, to_layout(model, layout, skip_heads), {"layout": layout})


def to_layout(model: Trunk, layout: str, skip_heads: bool | Iterable[str] = ()) -> dict[str, Tensor]:
    """The state dict of ``model`` as another library names it; see ``save_weights``."""
    check_layout(type(model), layout)
    state = model.state_dict()
    skipped = find_skipped(model, state, skip_heads)
    state = {key: value for key, value in state.items() if id_of(key) not in skipped}
    if layout == "native":
        return state
    if layout == "classy_vision":
        key_map = model.key_map()
        return _rename_trunk(state, key_map) if key_map else state
    key_map = model.foreign_key_maps()[layout]
    known = {head_of(key) for key in state if head_of(key) and key_map.to_theirs(key)}
    ends = {name: head for name, head in find_end_heads(model).items() if name not in known}
    targets = {name for name in ends if ends[name].unique_id not in skipped}
    lost = sorted({str(head_of(key)) for key in state if head_of(key)} - targets - known)
    if lost or len(targets) > 1:
        names = [name.split(".")[2] for name in lost or sorted(targets)]
        raise ConfigError(
            f"the {layout} layout has one classifier, at the end of the trunk, and no place for the "
            f"heads {', '.join(names)}: name those to leave out in skip_heads"
        )
    return key_map.save({to_virtual_key(key, ends): value for key, value in state.items()})


def check_layout(family: type[Trunk], layout: str) -> None:
    """Raises an UnknownNameError if weights of ``family`` cannot be written in ``layout``."""
    if layout not in (*OURS, *family.layouts):
        raise unknown("layout", layout, dict.fromkeys([*OURS, *family.layouts]), family.__name__)


def _rename_trunk(state: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    """The original's flat names; heads as ``heads.<block>.<id>``."""
    theirs = {key: value for key, value in state.items() if key_map.to_theirs(key)}
    return {**key_map.save(theirs), **{key: value for key, value in state.items() if key not in theirs}}
