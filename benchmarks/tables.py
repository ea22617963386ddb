"""Tables in Markdown, and the line above them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import torch


def header(first: str, *columns: str, words: int = 1) -> str:
    """The head of a table, of which the first ``words`` columns are text, and the others numbers."""
    names = [first, *columns]
    return f"{row(names)}\n|{'---|' * words}{'---:|' * (len(names) - words)}"


def row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def about(threads: int, *more: str) -> str:
    """The version of torch, threads, and what ``more`` says."""
    words = [f"torch {torch.__version__}", f"{threads} thread{'s' if threads > 1 else ''}", *more]
    return f"{'; '.join(words)}.\n"
