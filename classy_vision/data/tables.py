"""Tables of images or videos and their labels, in CSV and Parquet."""

from __future__ import annotations

import csv as texts
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import compute, csv, parquet

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.data.config import TableConfig
from classy_vision.data.files import TABLES

MISSING = (
    *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
    *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)
"""Cells of a CSV that are missing labels, as in pandas."""
BLOCK = 2**26
"""Bytes of a CSV that are parsed at once; a row must fit."""


def read_columns(path: Path, data: TableConfig) -> dict[str, Callable[[], list[Any]]]:
    """Reads a table: for each column, a function that gives its cells; a missing one is None.

    Raises:
        ConfigError: the file is damaged or of an unknown format, or has no column "path".
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"data.file: {data.file!r} is of an unknown format (known: {', '.join(TABLES)})")
    with _reading(path, "data.file: "):
        table = reader(path, data)
        names: list[str] = table.column_names  # which are decoded only now
    _check_names(names, path)
    if "path" not in names:
        raise unknown("column", "path", names, f"{path} needs a column 'path'")
    return {name: partial(_cells, table.column(name), name, path, data) for name in names}


def read_headings(path: Path) -> list[str]:
    """Reads the names of a table's columns.

    Raises:
        ConfigError: the file cannot be read.
    """
    with _reading(path):
        if path.suffix.lower() == ".parquet":
            return list(parquet.read_schema(path).names)
        return [name.strip() for name in _header(path)]


@contextmanager
def _reading(path: Path, where: str = "") -> Iterator[None]:
    """Turns what goes wrong inside into one message."""
    try:
        yield
    except (OSError, UnicodeDecodeError, MemoryError, texts.Error, pyarrow.ArrowException) as error:
        raise ConfigError(f"{where}cannot read {str(path)!r}: {first_line(error)}") from None


def _header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next((row for row in texts.reader(file) if row), [])


def _read_csv(path: Path, data: TableConfig) -> pyarrow.Table:
    """A table of texts."""
    if not path.stat().st_size:
        return pyarrow.table({})
    wrong: list[csv.InvalidRow] = []

    def note(row: csv.InvalidRow) -> str:
        wrong.append(row)
        return "skip"

    table = csv.read_csv(
        path,
        csv.ReadOptions(use_threads=False, block_size=BLOCK),
        csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        csv.ConvertOptions(column_types=dict.fromkeys(_header(path), pyarrow.string())),
    )
    if wrong:
        row = wrong[0]
        raise ConfigError(
            f"{path}, line {row.number}: {row.actual_columns} cells under {row.expected_columns} headings"
        )
    return table.rename_columns([name.strip() for name in table.column_names])


def _cells(column: pyarrow.ChunkedArray, name: str, path: Path, data: TableConfig) -> list[Any]:
    """The cells of a column; times and dates as text, since Python's do not hold all of them."""
    kind = column.type
    try:
        if path.suffix.lower() == ".csv":
            column = _without_missing(column, data)
        if pyarrow.types.is_temporal(kind):
            column = column.cast(pyarrow.string())
            if compute.any(compute.starts_with(column, "<value out of range")).as_py():
                raise ValueError("a date beyond the year 32767")
        return [None if cell != cell else cell for cell in column.to_pylist()]
    except (ValueError, OverflowError, NotImplementedError, pyarrow.ArrowException) as error:
        raise ConfigError(
            f"{path}: column {name!r} of type {kind} cannot be read: {first_line(error)}"
        ) from None


def _without_missing(column: pyarrow.ChunkedArray, data: TableConfig) -> pyarrow.ChunkedArray:
    words = ["", *(MISSING if data.missing is None else data.missing)]
    cells = compute.utf8_trim_whitespace(column)
    return compute.if_else(compute.is_in(cells, pyarrow.array(words, pyarrow.string())), None, cells)


def _check_names(names: Sequence[str], path: Path) -> None:
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: two columns are called {twice!r}")


_READERS: dict[str, Callable[[Path, TableConfig], pyarrow.Table]] = dict(
    zip(TABLES, (_read_csv, lambda path, data: parquet.read_table(path)))
)
