"""Numbers and tables as text, for people and for programs: every command and file writes them here."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K"))
UNBOUNDED = 1000
"""The width of a file or a pipe, in columns."""
GAP = 2
"""The columns between two cells of a table, and of its edges."""


def human(number: float) -> str:
    """Writes a number with three digits and a unit: 25557032 is "25.6M"."""
    # 999_500 would round to 1000K.
    unit, letter = next(((u, s) for u, s in _UNITS if number >= 0.9995 * u), (1, ""))
    value = number / unit
    return f"{value:.{0 if value >= 99.95 or not letter else 1 if value >= 9.995 else 2}f}{letter}"


def size(shape: Sequence[int]) -> str:
    """Writes a shape: (256, 56, 56) is "256×56×56"."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, shape))


def percent(part: float, digits: int = 2) -> str:
    """Writes a part of 1: 0.1234 is "12.34%"."""
    return f"{part:.{digits}%}"


def milliseconds(number: float) -> str:
    """Writes a time with three digits: 12.345 is "12.3"."""
    return f"{number:,.{0 if number >= 99.95 else 1 if number >= 9.995 else 2 if number >= 0.0995 else 4}f}"


# -- for programs


def dump(data: Any, rows: Sequence[Mapping[str, Any]], format: str) -> str | None:
    """Writes ``data`` as JSON, or ``rows`` as CSV with lists joined by "x"; returns None for other formats."""
    if format == "json":
        return json.dumps(data, indent=2)
    if format != "csv":
        return None
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: "x".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in row.items()}
        writer.writerow(cells)
    return text.getvalue().rstrip("\n")


def cut(text: str, length: int) -> str:
    """Cuts a text to ``length`` characters, of which the last one says that there was more."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def list_some(names: Iterable[str], most: int = 10) -> str:
    """The first names in quotes, separated by commas; "none" if there are none."""
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (", …" if len(names) > most else "") if names else "none"


# -- for people


@dataclass(frozen=True)
class Grid:
    """The cells of a table.

    Attributes:
        headings: by the name of the column.
        lines: cells by the name of the column, a line per row.
        left: names of the columns that are aligned to the left; those of numbers are not.
        styles: of the lines, for rich.
        sections: indices of the lines after which a section ends.
        left_out: headings of columns that the terminal is too narrow for.
        title: stands above.
        totals: cells below the lines, by the name of the column.
        folded: the name of the column whose cells may take several lines.
    """

    headings: Mapping[str, str]
    lines: Sequence[Mapping[str, str]]
    left: Collection[str]
    styles: Mapping[int, str] = field(default_factory=dict)
    sections: Collection[int] = ()
    left_out: Sequence[str] = ()
    title: str | None = None
    totals: Mapping[str, str] = field(default_factory=dict)
    folded: str = ""

    @property
    def width(self) -> int:
        """The columns of a terminal that show all of it."""
        widths = (max(map(len, (h, *(line[n] for line in self.lines)))) for n, h in self.headings.items())
        return GAP + sum(GAP + width for width in widths)

    def fit(self, width: int, dispensable: Sequence[str]) -> Grid:
        """Leaves out ``dispensable`` columns, first to last, until the others fit into ``width``."""
        grid = self
        for name in filter(self.headings.__contains__, dispensable):
            if grid.width > width:
                headings = {n: h for n, h in grid.headings.items() if n != name}
                grid = replace(grid, headings=headings, left_out=[*grid.left_out, self.headings[name]])
        return grid

    def table(self) -> Table:
        """Makes the table that rich prints."""
        from rich import box
        from rich.table import Table

        look: dict[str, Any] = {"title": self.title, "title_justify": "left", "title_style": "bold"}
        shown = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), show_footer=bool(self.totals), **look)
        for name, heading in self.headings.items():
            side: Literal["left", "right"] = "left" if name in self.left else "right"
            wrap: dict[str, Any] = {"overflow": "fold"} if name == self.folded else {"no_wrap": True}
            shown.add_column(heading, self.totals.get(name, ""), justify=side, **wrap)
        for index, line in enumerate(self.lines):
            cells, style = (line[name] for name in self.headings), self.styles.get(index)
            shown.add_row(*cells, style=style, end_section=index in self.sections)
        return shown


def print_grid(grid: Grid, dispensable: Sequence[str], advice: str) -> None:
    """Prints a table as wide as the terminal, or in full to a file or a pipe.

    Args:
        grid: the table.
        dispensable: columns that a narrow terminal leaves out, first to last; the others stay whole.
        advice: says where the columns that were left out are.
    """
    from rich.console import Console

    console = Console(highlight=False)
    bounded = console.is_terminal or "COLUMNS" in os.environ
    fitted = grid.fit(console.width if bounded else UNBOUNDED, dispensable)
    Console(highlight=False, width=max(fitted.width, console.width)).print(fitted.table())
    if fitted.left_out:
        console.print(f"Too narrow for: {', '.join(fitted.left_out)}. {advice}", style="dim")
