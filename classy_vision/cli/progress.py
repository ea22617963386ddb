"""How far an embedding is: a bar on a terminal, and otherwise a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from classy_vision.embed import Progress

EVERY = 30.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """Shows a bar on a terminal, and otherwise a line from time to time."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns: Any = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[rate]}"), TimeRemainingColumn()),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("embedding", total=None, rate="")
        begin = time.perf_counter()

        def show(now: Progress) -> None:
            done, total = _count(now)
            rate = f"{now.rows / (time.perf_counter() - begin):,.0f}/s"
            bar.update(task, completed=done, total=total, rate=rate)

        yield show


def _count(now: Progress) -> tuple[int, int]:
    """Returns how much is done of how much: samples, or where their number is not known, shards."""
    if now.of_rows is None:
        return now.shards, now.of_shards
    return now.rows + now.errors, now.of_rows


class _Lines:
    """Prints how far an embedding is, now and then."""

    def __init__(self) -> None:
        self._begin = self._last = time.perf_counter()

    def __call__(self, now: Progress) -> None:
        time_now = time.perf_counter()
        if time_now - self._last < EVERY:
            return
        self._last, spent = time_now, time_now - self._begin
        done, total = _count(now)
        left = f", {spent * (total - done) / done / 60:,.0f} min left" if done else ""
        typer.echo(f"{now.rows:,} embedded, {now.rows / spent:,.1f} per second{left}", err=True)
