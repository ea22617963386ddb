"""Which layout the keys of a file are of."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from classy_vision.config import ConfigError, unknown
from classy_vision.weights.key_map import KeyMap, list_names
from classy_vision.weights.layout import HEAD
from classy_vision.weights.state import StateError


@dataclass(frozen=True)
class Candidate:
    """How well a layout explains the keys of a file.

    Attributes:
        layout: its name.
        known: the number of keys that the model or its head has a place for, or that are left out on purpose.
        unexpected: the other keys.
    """

    layout: str
    known: int
    unexpected: tuple[str, ...]


def rank_layouts(keys: Collection[str], maps: Mapping[str, KeyMap], places: Collection[str]) -> list[Candidate]:
    """The layouts that know any of ``keys``, the best first.

    Args:
        keys: of a file, without containers and prefixes.
        maps: key maps of one model, by layout.
        places: the model's own keys.
    """
    found = []
    for name, key_map in maps.items():
        unexpected = tuple(key for key in keys if not _has_place(key, key_map, places))
        found.append(Candidate(name, len(keys) - len(unexpected), unexpected))
    return sorted((candidate for candidate in found if candidate.known), key=lambda found: -found.known)


def _has_place(key: str, key_map: KeyMap, places: Collection[str]) -> bool:
    if key_map.drops(key):
        return True
    ours = key_map.to_native(key)
    return ours is not None and (ours in places or ours.startswith(HEAD))


def find_layout(
    keys: Collection[str], maps: Mapping[str, KeyMap], places: Collection[str], layout: str | None, model: str
) -> str:
    """The layout that knows all of ``keys``.

    Args:
        keys, maps, places: as for ``rank_layouts``.
        layout: the one that the caller named, if any.
        model: what messages call the model.

    Raises:
        UnknownNameError: the family has no such layout.
        StateError: no layout knows all keys; the message says what the nearest one lacks.
    """
    if layout is not None and layout not in maps:
        raise unknown("layout", layout, maps, model)
    candidates = {layout: maps[layout]} if layout else maps
    found = rank_layouts(keys, candidates, places)
    if found and not found[0].unexpected:
        return found[0].layout
    if not found:
        raise StateError(
            f"no key of the file is known in any layout of {model} ({', '.join(candidates)}): "
            f"{list_names('key', keys)}{_suggest_prefix(keys, candidates, places)}"
        )
    best = found[0]
    expected = [name for place in places if (name := maps[best.layout].to_theirs(place))]
    raise StateError(
        f"the file is nearest to the {best.layout} layout, but {list_names('key', best.unexpected)} of "
        f"{len(keys)} have no place in this {model}{_suggest(best.unexpected[0], expected)}"
    )


def _suggest(key: str, expected: Iterable[str]) -> str:
    near = get_close_matches(key, list(expected), 1)
    return f"; nearest to {key!r} is {near[0]!r}" if near else ""


def _suggest_prefix(keys: Collection[str], maps: Mapping[str, KeyMap], places: Collection[str]) -> str:
    """The advice of a message about keys that would be known without their first segments."""
    first = next(iter(keys), "")
    for length in range(1, first.count(".")):
        prefix = ".".join(first.split(".")[:length]) + "."
        inner = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        if len(inner) == len(keys) and rank_layouts(inner, maps, places):
            return f"; all begin with {prefix!r}: pass prefix={prefix!r}"
    return ""


def strip_prefix(keys: Iterable[str], prefix: str) -> dict[str, str]:
    """{key: key without ``prefix``}, of the keys that begin with it.

    Raises:
        ConfigError: no key does.
    """
    found = {key: key.removeprefix(prefix) for key in keys if key.startswith(prefix)}
    if not found:
        raise ConfigError(f"prefix = {prefix!r}: no key of the file begins with it")
    return found
