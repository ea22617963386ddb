"""One engine for the key names of foreign weights: rows of (their prefix, our prefix).

A prefix is a whole number of dot-separated segments. ``{name}`` in it stands for a number,
``{name+1}`` for that number counted from one more. A key belongs to the first row whose prefix
it has; what follows the prefix is carried over as it is.

    >>> KeyMap("theirs", [("layer{s+1}.{i}", "blocks.block{s}-{i}")]).to_native("layer2.0.bn.bias")
    'blocks.block1-0.bn.bias'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from classy_vision.config import ConfigError, unknown

T = TypeVar("T")


class Transform(NamedTuple):
    """What to do with a tensor whose axes differ between two layouts."""

    load: Callable[[Tensor], Tensor]
    save: Callable[[Tensor], Tensor]


def _swap_first_axes(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1)


SWAP_FIRST_AXES = Transform(_swap_first_axes, _swap_first_axes)

Renaming = tuple[str, str]
Row = Renaming | tuple[str, str, Transform]

_PLACEHOLDER = re.compile(r"\{(\w+)(?:\+(\d+))?\}")


class KeyMap:
    """The keys of one foreign layout of one model, in both directions.

    Args:
        layout: what the layout is called in messages.
        rows: (their prefix, our prefix), and a transform where tensors differ, in the order in
            which their layout lists the keys.
        spellings: (their older prefix, their prefix), for files written before a renaming.
        dropped: prefixes of theirs for which the model has no place, to be left out.
    """

    def __init__(
        self,
        layout: str,
        rows: Sequence[Row],
        spellings: Sequence[Renaming] = (),
        dropped: Sequence[str] = (),
    ) -> None:
        self.layout = layout
        self._rows = [(_Prefix(row[0]), _Prefix(row[1]), row[2] if len(row) > 2 else None) for row in rows]
        self._spellings = [(_Prefix(old), _Prefix(new)) for old, new in spellings]
        self._dropped = [_Prefix(theirs) for theirs in dropped]

    def to_native(self, key: str) -> str | None:
        """Our name for their ``key``; None where no row knows it."""
        return self._ours(key)[0]

    def to_theirs(self, key: str) -> str | None:
        """Their name for our ``key``; None where their layout has no place for it."""
        return self._theirs(key)[0]

    def knows(self, key: str) -> bool:
        """Whether their ``key`` has a place, or is to be left out."""
        return any(d.rewrite(key, d) for d in self._dropped) or self.to_native(key) is not None

    def load(self, state: Mapping[str, T]) -> dict[str, T]:
        """A state dict in our layout from one in theirs.

        Raises:
            ConfigError: lists the keys that no row knows.
        """
        kept = [key for key in state if not any(d.rewrite(key, d) for d in self._dropped)]
        found = {key: self._ours(key) for key in kept}
        strangers = [key for key, (name, _) in found.items() if name is None]
        if strangers:
            raise ConfigError(f"{listed('key', strangers)} not known in the {self.layout} layout")
        return {
            str(name): transform.load(state[key]) if transform else state[key]  # type: ignore[arg-type,misc]
            for key, (name, transform) in found.items()
        }

    def save(self, state: Mapping[str, T]) -> dict[str, T]:
        """A state dict in their layout and order from one in ours.

        Raises:
            UnknownNameError: a key has no place in their layout.
        """
        parts: dict[str, int] = {}
        found: list[tuple[int, int, str, Any]] = []
        for key, value in state.items():
            name, row = self._theirs(key)
            if name is None:
                raise unknown("key", key, [], f"the {self.layout} layout has no place for it")
            segments = key.split(".")
            part = parts.setdefault(".".join(segments[: 2 if segments[0] == "blocks" else 1]), len(parts))
            transform = self._rows[row][2]
            found.append((part, row, name, transform.save(value) if transform else value))  # type: ignore[arg-type]
        found.sort(key=lambda entry: entry[:2])
        return {name: value for _, _, name, value in found}

    def _ours(self, key: str) -> tuple[str | None, Transform | None]:
        for old, new in self._spellings:
            key = old.rewrite(key, new) or key
        for theirs, ours, transform in self._rows:
            if (name := theirs.rewrite(key, ours)) is not None:
                return name, transform
        return None, None

    def _theirs(self, key: str) -> tuple[str | None, int]:
        for row, (theirs, ours, _) in enumerate(self._rows):
            if (name := ours.rewrite(key, theirs)) is not None:
                return name, row
        return None, -1


class _Prefix:
    """A prefix with placeholders, to match keys and to write them."""

    def __init__(self, text: str) -> None:
        self.text = text
        pattern, end = "", 0
        seen: set[str] = set()
        for hole in _PLACEHOLDER.finditer(text):
            name = f"{hole[1]}_{hole[2] or 0}"
            pattern += re.escape(text[end : hole.start()])
            pattern += f"(?P={name})" if name in seen else rf"(?P<{name}>\d+)"
            seen.add(name)
            end = hole.end()
        self._pattern = re.compile(pattern + re.escape(text[end:]) + r"(?=\.|$)")

    def rewrite(self, key: str, other: _Prefix) -> str | None:
        """``key`` with this prefix replaced by ``other``; None where it does not have it."""
        match = self._pattern.match(key)
        if match is None:
            return None
        numbers: dict[str, int] = {}
        for group, digits in match.groupdict().items():
            name, _, offset = group.rpartition("_")
            numbers[name] = int(digits) - int(offset)

        def fill(hole: re.Match[str]) -> str:
            return str(numbers[hole[1]] + int(hole[2] or 0))

        return _PLACEHOLDER.sub(fill, other.text) + key[match.end() :]


def listed(noun: str, names: Iterable[str], limit: int = 3) -> str:
    """``"5 keys (a, b, c, …)"``: a count and the first few names."""
    names = list(names)
    shown = ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({shown})"
