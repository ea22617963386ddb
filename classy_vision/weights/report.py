"""What loading weights did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from classy_vision.weights.key_map import list_names


@dataclass(frozen=True)
class Report:
    """What happened to every tensor of a file and of the model.

    Attributes:
        source: the file.
        layout: whose key names it has.
        loaded: keys of the model that got their values from it.
        changed: keys of the model whose tensors were not taken as they are, and how they differ.
        dropped: keys of the file that were left out, and why.
        kept: heads that keep the weights they had.
    """

    source: str
    layout: str
    loaded: tuple[str, ...]
    changed: Mapping[str, str]
    dropped: Mapping[str, str]
    kept: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} tensors loaded from the {self.layout} layout"]
        for verb, entries in (("changed", self.changed), ("left out", self.dropped)):
            for reason in dict.fromkeys(entries.values()):
                keys = [key for key, why in entries.items() if why == reason]
                lines.append(f"  {verb}: {list_names('tensor', keys)}: {reason}")
        if self.kept:
            lines.append(f"  not in the file: {list_names('head', self.kept)}")
        return "\n".join(lines)
