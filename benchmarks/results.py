"""The file of results: a line about the machine, and a section for each benchmark."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

TITLE = "# Results"
_END = "; one thread."  # of the machine's description


@dataclass(frozen=True)
class Results:
    """What the file says.

    Attributes:
        machine: processor, memory and versions.
        remarks: what follows on that line.
        sections: their text by their title.
    """

    machine: str
    remarks: str
    sections: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def read(text: str) -> Results:
        """The results in ``text``.

        Raises:
            ValueError: it does not begin as results do.
        """
        top, *parts = f"\n{text}".split("\n## ")
        machine, end, remarks = top.strip().removeprefix(TITLE).strip().partition(_END)
        if not top.strip().startswith(TITLE) or not end:
            raise ValueError(f"is no file of results, which begins with {TITLE!r} and the machine")
        sections = {title.strip(): body.strip() for title, _, body in (part.partition("\n") for part in parts)}
        return Results(machine, remarks.strip(), sections)

    def text(self) -> str:
        parts = [TITLE, f"{self.machine}{_END} {self.remarks}"]
        for title, body in self.sections.items():
            parts += [f"## {title}", body]
        return "\n\n".join(parts) + "\n"

    def check(self, machine: str) -> None:
        """Raises where figures of ``machine`` do not belong beside these.

        Raises:
            ValueError: it is another one.
        """
        if machine != self.machine:
            raise ValueError(f"is of another machine: {self.machine!r}, and this one is {machine!r}")

    def merged(self, sections: Mapping[str, str], order: Iterable[str]) -> Results:
        """With ``sections`` in the place of those of the same titles; in ``order``, others at the end."""
        every = {**self.sections, **sections}
        first = [title for title in order if title in every]
        return replace(self, sections={title: every[title] for title in dict.fromkeys([*first, *every])})


def write(path: Path, results: Results) -> None:
    """Replaces the file, whole or not at all."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(results.text())
    os.replace(beside, path)
