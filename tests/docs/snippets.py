"""The code on the site's pages: found, run, and held against what the pages say comes out.

In Python blocks a comment behind an expression, or right below it, says what it gives: a literal, in
which tensors are their shapes and ``...`` stands for anything left out, or the repr of an object, or
the error that it raises (``# ConfigError: part of the message``). Other comments are for people.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from torch import Tensor

from docs._ext import pages

FENCE = re.compile(
    r"^```(?:(\w+)|\{code-block\} (\w+)\n:caption: (\S+)\n)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
LITERAL = re.compile(r"""[\[({'"\d-]|(?:True|False|None)\b""")
RAISES = re.compile(r"(\w+(?:Error|Exception)): (.*)", re.DOTALL)
OBJECT = re.compile(r"[A-Z]\w*\(.*\)$", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: such as "python".
        text: what is in it.
        place: the page and the line, for messages.
        caption: what stands above it.
    """

    language: str
    text: str
    place: str
    caption: str = ""

    @property
    def file(self) -> str | None:
        """The file that it shows, named in its caption."""
        return self.caption if "." in self.caption else None


@cache
def page_text(page: str) -> str:
    """The Markdown of a page, with what is registered when it is first asked for."""
    return pages.text(page)


def blocks(page: str) -> list[Block]:
    """The blocks of code of a page."""
    text = page_text(page)
    return [
        Block(plain or language, code, f"{page}:{text[: match.start()].count(chr(10)) + 1}", caption or "")
        for match in FENCE.finditer(text)
        for plain, language, caption, code in [match.groups()]
    ]


# -- Python


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Runs a block in ``names``, statement by statement, and checks what its comments say."""
    comments = dict(_comments(block.text))
    for statement in ast.parse(block.text).body:
        assert statement.end_lineno is not None
        _run(statement, _said(comments, statement.end_lineno), names, block.place)


def _comments(code: str) -> Iterator[tuple[int, tuple[str, bool]]]:
    """By line the comment, and whether it stands alone."""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], (token.string[1:].strip(), not token.line[: token.start[1]].strip())


def _said(comments: Mapping[int, tuple[str, bool]], line: int) -> str:
    """The comment behind a statement or right below it, with the lines that go on with it."""
    parts = [comments[line][0]] if line in comments else []
    while (line := line + 1) in comments and comments[line][1]:
        parts.append(comments[line][0])
    return " ".join(parts)


def _run(statement: ast.stmt, said: str, names: dict[str, Any], place: str) -> None:
    module = ast.Module([statement], [])
    if raised := RAISES.match(said):
        with pytest.raises(Exception, match=re.escape(raised[2])) as caught:
            exec(compile(module, place, "exec"), names)
        assert raised[1] in {cls.__name__ for cls in type(caught.value).__mro__}, place
    elif isinstance(statement, ast.Expr) and (LITERAL.match(said) or OBJECT.match(said)):
        value = eval(compile(ast.Expression(statement.value), place, "eval"), names)
        if OBJECT.match(said):
            assert repr(value) == said, place
        else:
            wanted = ast.literal_eval(said)
            assert agree(plain(value), wanted), f"{place}: {plain(value)}, not {said}"
    else:
        exec(compile(module, place, "exec"), names)


def plain(value: Any) -> Any:
    """``value`` with the shapes of tensors in their places."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(entry) for entry in value) if type(value) is list else tuple(map(plain, value))
    return value


def agree(value: Any, wanted: Any) -> bool:
    """Whether they are the same, but for what ``...`` stands for."""
    if wanted is ...:
        return True
    if isinstance(value, Mapping) and isinstance(wanted, Mapping):
        return list(value) == list(wanted) and all(agree(value[key], wanted[key]) for key in wanted)
    if type(value) is type(wanted) and isinstance(value, (list, tuple)):
        if ... in wanted:
            at = wanted.index(...)
            behind = len(wanted) - at - 1
            if len(value) < at + behind:
                return False
            value = [*value[:at], *value[len(value) - behind :]]
            wanted = [*wanted[:at], *wanted[at + 1 :]]
        return len(value) == len(wanted) and all(map(agree, value, wanted))
    if isinstance(wanted, float):
        return bool(value == pytest.approx(wanted, rel=1e-6))
    return bool(value == wanted)
