"""Pieces of Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; headings that end with ":" are of columns of numbers."""
    names = [heading.rstrip(":") for heading in headings]
    lines = [names, ["---:" if heading.endswith(":") else "---" for heading in headings], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    return f"`{text}`"


def codes(texts: Iterable[object]) -> str:
    return ", ".join(map(code, texts))


def plain(text: str) -> str:
    """``text`` whose stars and angles are no markup, but for what it marks as code; options are code."""
    parts = re.split(r"(``?[^`]+``?)", text)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    """Two hyphens would become a dash on the site."""
    return re.sub(r"(?<![\w-])(--[a-z][\w-]*)", r"`\1`", re.sub(r"([*<])", r"\\\1", text))


def fence(language: str, text: str) -> str:
    return f"```{language}\n{text.strip()}\n```"


def paragraphs(documented: object) -> list[str]:
    """The docstring's paragraphs before its sections ("Args:", "Attributes:", …)."""
    texts = (inspect.getdoc(documented) or "").split("\n\n")
    ends = [i for i, text in enumerate(texts) if text.split("\n")[0] in ("Args:", "Attributes:", "Raises:")]
    return [plain(text) for text in texts[: ends[0] if ends else None]]
