"""Published weights of heads, by the names of the libraries that they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from classy_vision.config import ConfigError, unknown
from classy_vision.weights.key_map import KeyMap, list_names
from classy_vision.weights.layout import Layout


def published_heads(heads: Mapping[str, Sequence[Any]], layout: str) -> list[Layout]:
    """The rows of the head that a file in ``layout`` is for, with its place: of the only one that knows it.

    Args:
        heads: by place.
        layout: of the file.
    """
    found = [
        head.published[layout].move_to(f"heads.{place}.{head.unique_id}")
        for place, entries in heads.items()
        for head in entries
        if layout in head.published
    ]
    return found if len(found) == 1 else []


def load_published(head: Any, state: Mapping[str, Tensor], layout: str | None) -> None:
    """See ``ClassyHead.load_published``."""
    own = {key: value for key, value in head.state_dict().items() if not key.endswith("num_batches_tracked")}
    if not own:
        raise ConfigError(f"head {head.unique_id!r} has no weights: attach it first, or say its in_plane")
    if layout is not None and layout not in head.published:
        raise unknown("layout", layout, head.published, type(head).__name__)
    names = [layout] if layout is not None else list(head.published)
    found = max((_rename(head, name, state) for name in names), key=len, default={})
    if found and head.classifier and not any(key.startswith(f"{head.classifier}.") for key in found):
        own = {key: value for key, value in own.items() if not key.startswith(f"{head.classifier}.")}
    if missing := [key for key in own if key not in found]:
        raise ConfigError(
            f"head {head.unique_id!r}: {list_names('key', missing)} of {len(own)} are not in the state in the "
            f"layouts that are known ({', '.join(names) or 'none'})"
        )
    for key, value in own.items():
        if found[key].shape != value.shape:
            raise ConfigError(
                f"head {head.unique_id!r}: {key!r} is {tuple(value.shape)}, and in the state "
                f"{tuple(found[key].shape)}"
            )
    head.load_state_dict({**head.state_dict(), **{key: found[key] for key in own}})


def _rename(head: Any, layout: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of ``state`` the head has a place for, by our names."""
    table = head.published[layout]
    key_map = KeyMap(layout, table.list_rows(), table.legacy, table.dropped)
    own = head.state_dict()
    known = {key: value for key, value in state.items() if key_map.to_native(key) in own}
    return key_map.load(known)
