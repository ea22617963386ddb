"""The site's pages: the hand-written ones with their tables from code, and one per family.

A Sphinx extension; tests read ``text`` without Sphinx.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import family_pages, sections

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
FAMILIES = "families"
"""The folder of the generated pages."""


def names() -> list[str]:
    """The file names of all pages."""
    return sorted(
        [*(file.name for file in DOCS.glob("*.md")), *(f"{FAMILIES}/{n}" for n in family_pages.names())]
    )


def text(name: str) -> str:
    """The Markdown of a page."""
    if name.startswith(f"{FAMILIES}/"):
        return family_pages.page(name.removeprefix(f"{FAMILIES}/"))
    return sections.expand((DOCS / name).read_text(encoding="utf-8"))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _write_families)
    app.connect("source-read", _expand)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def committed() -> dict[Path, str]:
    """What the files in the repository hold: pages with their tables, and the pages of the families."""
    pages = {file: sections.render(file.read_text(encoding="utf-8")) for file in DOCS.glob("*.md")}
    return {**pages, **{DOCS / FAMILIES / name: family_pages.page(name) for name in family_pages.names()}}


def _write_families(app: Sphinx) -> None:
    folder = Path(app.srcdir, FAMILIES)
    folder.mkdir(exist_ok=True)
    made = {name: family_pages.page(name) for name in family_pages.names()}
    for file in folder.glob("*.md"):
        if file.name not in made:
            file.unlink()
    for name, text in made.items():
        file = folder / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:  # Sphinx reads what has changed
            file.write_text(text, encoding="utf-8")


def _expand(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = sections.expand(source[0])


if __name__ == "__main__":
    for file, page in committed().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(page, encoding="utf-8")
