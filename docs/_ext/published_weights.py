"""The published weights as one table of the site, and what other libraries have that is left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from html import escape

from classy_vision.text import human
from classy_vision.weights.catalogue import Published, list_left_out, names, published
from classy_vision.weights.licenses import find_restriction

from .markdown import codes, table

COLUMNS = ("name", "network", "params", "pixels", "top-1", "outputs", "license")
NUMBERS = ("params", "pixels", "top-1")


def all_names() -> str:
    """A table in HTML, a row per name, which ``_static/table.js`` makes searchable and sortable."""
    head = _row("th", [(name, "", name in NUMBERS) for name in COLUMNS])
    rows = "\n".join(_row("td", _cells(published(name))) for name in names())
    return (
        f'<div class="table-wrapper"><table class="docutils searchable">\n<thead>\n{head}\n</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _cells(entry: Published) -> list[tuple[str, str, bool]]:
    """What stands in the cells of a row: text, the value to sort by, and whether it is a number."""
    top1 = "" if entry.top1 is None else f"{entry.top1:.1f}"
    mark = "" if find_restriction(entry.license) is None else " ⚠"
    pixels = str(entry.preprocessing.image_size)
    return [
        (entry.name, "", False),
        (str(entry.config["name"]), "", False),
        (human(entry.params), str(entry.params), True),
        (pixels, pixels, True),
        (top1, str(entry.top1 or ""), True),
        (entry.outputs, "", False),
        (f"{entry.license or 'not stated'}{mark}", "", False),
    ]


def _row(tag: str, cells: Iterable[tuple[str, str, bool]]) -> str:
    return f"<tr>{''.join(_cell(tag, *cell) for cell in cells)}</tr>"


def _cell(tag: str, text: str, value: str, number: bool) -> str:
    kind = ' class="text-right"' if number else ""
    key = f' data-value="{escape(value)}"' if value else ""
    return f"<{tag}{kind}{key}>{escape(text)}</{tag}>"


def left_out() -> str:
    """The architectures of families that are here, a row per reason, and the names of the other families."""
    single: dict[tuple[str, str], list[str]] = defaultdict(list)
    whole: dict[str, dict[str, None]] = defaultdict(dict)
    for entry in list_left_out():
        if entry.reason:
            single[entry.library, entry.reason].append(entry.name)
        else:
            whole[entry.library][entry.family] = None
    rows = [(library, codes(found), reason) for (library, reason), found in single.items()]
    others = [f"Of {library}, nothing of these families: {codes(found)}." for library, found in whole.items()]
    return "\n\n".join([table(("library", "architectures", "what they have"), rows), *others])
