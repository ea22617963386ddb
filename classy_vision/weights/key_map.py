"""One engine for the key names of foreign weights: rows of (their prefix, our prefix).

A prefix is a whole number of dot-separated segments. ``{name}`` in it stands for a number,
``{name+1}`` for that number counted from one more, and ``{name:block}``, on our side, for the
model's block of that number. A key belongs to the first row whose prefix it has; what follows
the prefix is carried over as it is.

    >>> KeyMap("theirs", [("layer{s+1}.{i}", "blocks.block{s}-{i}")]).to_native("layer2.0.bn.bias")
    'blocks.block1-0.bn.bias'
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classy_vision.config import ConfigError, unknown


class Transform(NamedTuple):
    """What to do with tensors that differ between two layouts.

    Attributes:
        load: takes theirs, one for each prefix of the row, and gives ours.
        save: takes ours and gives theirs: a tensor, or a tuple if the row has several prefixes.
        does: what loading does, for reports.
    """

    load: Callable[..., Tensor]
    save: Callable[[Tensor], Tensor | tuple[Tensor, ...]]
    does: str


SWAP_FIRST_AXES = Transform(lambda x: x.transpose(0, 1), lambda x: x.transpose(0, 1), "first two axes swapped")
REVERSE_CHANNELS = Transform(lambda x: x.flip(1), lambda x: x.flip(1), "channels reversed, BGR to RGB")
"""For a first convolution that takes BGR."""
JOIN_QKV = Transform(lambda *parts: torch.cat(parts), lambda x: x.chunk(3), "query, key and value joined")

Renaming = tuple[str, str]
Row = Renaming | tuple[str | tuple[str, ...], str, Transform]


class Move(NamedTuple):
    """Where a tensor of ours comes from.

    Attributes:
        ours: our key.
        theirs: their keys, several if we keep in one tensor what they keep in more.
        transform: what is done with them; None if the tensor is taken as it is.
    """

    ours: str
    theirs: tuple[str, ...]
    transform: Transform | None

    def load(self, state: Mapping[str, Any]) -> Any:
        parts = [state[key] for key in self.theirs]
        return self.transform.load(*parts) if self.transform else parts[0]


class KeyMap:
    """The keys of one foreign layout of one model, in both directions.

    Args:
        layout: what the layout is called in messages.
        rows: (their prefix, our prefix), and a transform if tensors differ, in the order in
            which their layout lists the keys. Several prefixes of theirs make one tensor of ours.
        legacy: (their older prefix, their prefix), for files written before a renaming.
        dropped: prefixes of theirs for which the model has no place; they are left out.
        blocks: the names of the model's blocks, for rows that count through them.
    """

    def __init__(
        self,
        layout: str,
        rows: Sequence[Row],
        legacy: Sequence[Renaming] = (),
        dropped: Sequence[str] = (),
        blocks: Sequence[str] = (),
    ) -> None:
        self.layout = layout
        self._rows = [_Row(row, blocks) for row in rows]
        self._legacy = [(_Prefix(old), _Prefix(new)) for old, new in legacy]
        self._dropped = [_Prefix(theirs) for theirs in dropped]

    def to_native(self, key: str) -> str | None:
        """Our name for their ``key``; None if no row knows it."""
        return self._find_ours(key)[0]

    def to_theirs(self, key: str) -> str | None:
        """Their name for our ``key``, the first of several; None if their layout has no place for it."""
        return next((row.theirs_of(key)[0] for row in self._rows if row.theirs_of(key)), None)

    def knows(self, key: str) -> bool:
        """Whether their ``key`` has a place, or is to be left out."""
        return self.drops(key) or self.to_native(key) is not None

    def drops(self, key: str) -> bool:
        """Whether their ``key`` is to be left out."""
        return any(prefix.rewrite(key, prefix) for prefix in self._dropped)

    def moves(self, keys: Iterable[str]) -> list[Move]:
        """Where each tensor of ours comes from, in the order of ``keys``.

        Raises:
            ConfigError: lists keys that no row knows, that stand for one tensor, or that are missing.
        """
        found: dict[str, dict[int, str]] = {}
        rows: dict[str, _Row] = {}
        unexpected: list[str] = []
        for key in keys:
            if self.drops(key):
                continue
            name, row, part = self._find_ours(key)
            if name is None or row is None:
                unexpected.append(key)
                continue
            parts = found.setdefault(name, {})
            if part in parts:
                raise ConfigError(f"{parts[part]!r} and {key!r} are one tensor in the {self.layout} layout")
            parts[part], rows[name] = key, row
        if unexpected:
            raise ConfigError(f"{list_names('key', unexpected)} not known in the {self.layout} layout")
        for name, parts in found.items():
            if len(parts) < len(rows[name].theirs):
                raise ConfigError(
                    f"{next(iter(parts.values()))!r} lacks its counterparts in the {self.layout} layout"
                )
        return [
            Move(name, tuple(key for _, key in sorted(parts.items())), rows[name].transform)
            for name, parts in found.items()
        ]

    def load(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state dict in our layout from one in theirs, tensor by tensor.

        Raises:
            ConfigError: lists the keys that no row knows.
        """
        return {move.ours: move.load(state) for move in self.moves(state)}

    def save(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A state dict in their layout and order from one in ours.

        Raises:
            UnknownNameError: a key has no place in their layout.
        """
        parts: dict[str, int] = {}
        found: list[tuple[int, int, int, str, Any]] = []
        for key, value in state.items():
            order, row, names = self._find_theirs(key)
            segments = key.split(".")
            part = parts.setdefault(".".join(segments[: 2 if segments[0] == "blocks" else 1]), len(parts))
            saved = row.transform.save(value) if row.transform else value
            pieces = saved if isinstance(saved, tuple) else (saved,)
            found += [(part, order, i, name, piece) for i, (name, piece) in enumerate(zip(names, pieces))]
        found.sort(key=lambda entry: entry[:3])
        return {name: value for *_, name, value in found}

    def _find_ours(self, key: str) -> tuple[str | None, _Row | None, int]:
        for old, new in self._legacy:
            key = old.rewrite(key, new) or key
        for row in self._rows:
            for part, theirs in enumerate(row.theirs):
                if (name := theirs.rewrite(key, row.ours)) is not None:
                    return name, row, part
        return None, None, 0

    def _find_theirs(self, key: str) -> tuple[int, _Row, list[str]]:
        for order, row in enumerate(self._rows):
            if names := row.theirs_of(key):
                return order, row, names
        raise unknown("key", key, [], f"the {self.layout} layout has no place for it")


class _Row:
    """A row of a key map, ready to match."""

    def __init__(self, row: Row, blocks: Sequence[str]) -> None:
        theirs = row[0] if isinstance(row[0], tuple) else (row[0],)
        self.theirs = [_Prefix(prefix) for prefix in theirs]
        self.ours = _Prefix(row[1], blocks)
        self.transform = row[2] if len(row) > 2 else None

    def theirs_of(self, key: str) -> list[str]:
        """Their names for our ``key``; none if it is not of this row."""
        names = [self.ours.rewrite(key, theirs) for theirs in self.theirs]
        return [name for name in names if name is not None]


_PLACEHOLDER = re.compile(r"\{(\w+)(?:\+(\d+)|(:block))?\}")


class _Prefix:
    """A prefix with placeholders, to match keys and to write them."""

    def __init__(self, text: str, blocks: Sequence[str] = ()) -> None:
        self.text = text
        self.blocks = blocks
        self._holes: dict[str, re.Match[str]] = {}
        pattern, end = "", 0
        for hole in _PLACEHOLDER.finditer(text):
            group = f"{hole[1]}_{hole[2] or 0}"
            digits = "[^.]+" if hole[3] else r"\d+"
            pattern += re.escape(text[end : hole.start()])
            pattern += f"(?P={group})" if group in self._holes else f"(?P<{group}>{digits})"
            self._holes[group] = hole
            end = hole.end()
        self._literal = re.match(r"[^{]*", text)[0]  # type: ignore[index]  # always matches
        self._pattern = re.compile(pattern + re.escape(text[end:]) + r"(?=\.|$)")

    def rewrite(self, key: str, other: _Prefix) -> str | None:
        """``key`` with this prefix replaced by ``other``; None if it does not begin with it."""
        if not key.startswith(self._literal):  # most keys fail here, which is cheaper
            return None
        match = self._pattern.match(key)
        if match is None:
            return None
        numbers: dict[str, int] = {}
        for group, found in match.groupdict().items():
            hole = self._holes[group]
            if hole[3] and found not in self.blocks:
                return None
            numbers[hole[1]] = self.blocks.index(found) if hole[3] else int(found) - int(hole[2] or 0)

        def fill(hole: re.Match[str]) -> str:
            number = numbers[hole[1]]
            return other.blocks[number] if hole[3] else str(number + int(hole[2] or 0))

        try:
            return _PLACEHOLDER.sub(fill, other.text) + key[match.end() :]
        except IndexError:  # the model has fewer blocks
            return None


def list_names(noun: str, names: Iterable[str], limit: int = 3) -> str:
    """``"5 keys (a, b, c, …)"``: a count and the first few names."""
    names = list(names)
    shown = ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
    return f"{len(names)} {noun}{'' if len(names) == 1 else 's'} ({shown})"
