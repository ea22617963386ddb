"""The files of a review: a table of all rows, what stands out, and a page to look at."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from classy_vision.atomic import replacing
from classy_vision.config import ConfigError, system_error
from classy_vision.embed.findings import Neighbours
from classy_vision.embed.review_page import list_shown, render_page
from classy_vision.embed.thumbnails import Files, make_thumbnail, make_thumbnails

PAGE, TABLE, RESULT = "neighbours.html", "neighbours.parquet", "neighbours.json"
SHOWN = 24
"""Groups, labels and outliers that the page shows."""
COLUMNS = (
    *(pyarrow.field(name, pyarrow.string()) for name in ("id", "path", "label")),
    pyarrow.field("distance", pyarrow.float64()),
    pyarrow.field("group", pyarrow.int64()),
    *(pyarrow.field(name, pyarrow.string()) for name in ("copy_of", "suggested")),
    pyarrow.field("disagreement", pyarrow.float64()),
)
"""Of the table, before the neighbours: "distance" is that of the k-th one, "disagreement" the share of them."""
BLOCK = 65_536
"""Rows that are written at once."""


def check_review(folder: str | Path, *, force: bool = False) -> Path:
    """Checks that a review can be written to a folder; returns it with ``~`` expanded.

    Raises:
        ConfigError: it is not a folder, or a review is there and ``force`` is not set.
    """
    path = Path(os.path.expanduser(folder))
    if os.path.lexists(path) and not path.is_dir():
        raise ConfigError(f"{str(path)!r} is not a folder")
    there = next((path / name for name in (PAGE, TABLE, RESULT) if os.path.lexists(path / name)), None)
    if there is not None and not force:
        raise ConfigError(f"{there} exists: --force replaces it")
    return path


def write_neighbours(found: Neighbours, folder: str | Path, *, show: int = SHOWN, force: bool = False) -> Path:
    """Writes ``neighbours.html``, a page with pictures, ``neighbours.parquet`` and ``neighbours.json``.

    Args:
        found: what ``neighbours`` found.
        folder: where they are written.
        show: how many groups, labels and outliers the page shows.
        force: replace a review that is there.

    Returns:
        The page.

    Raises:
        ConfigError: it cannot be written there.
    """
    path, files = check_review(folder, force=force), Files(found.stored)
    pictures = make_thumbnails(files, list_shown(found, show))
    asked = [
        pictures[one.row] if one.row is not None else make_thumbnail(Path(os.path.expanduser(one.name)))
        for one in found.queries
    ]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise system_error(error, f"cannot write to {str(path)!r}") from None
    with replacing(path / TABLE) as beside:
        _write_table(found, beside)
    texts = {RESULT: json.dumps(_list_values(found, show), indent=2) + "\n"}
    texts[PAGE] = render_page(found, files.paths, pictures, asked, show)
    for name, text in texts.items():
        with replacing(path / name) as beside:
            beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path / PAGE


def _write_table(found: Neighbours, file: Path) -> None:
    """Writes a row for each image, a block of rows at a time."""
    schema = pyarrow.schema([*COLUMNS, *_list_lists(found.rows.shape[1])])
    columns, names = _list_columns(found), pyarrow.array(found.stored.ids, pyarrow.string())
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for start in range(0, len(found.rows), BLOCK):
            part = slice(start, start + BLOCK)
            near = names.take(pyarrow.array(found.rows[part].ravel()))
            cosines = pyarrow.array(found.similarities[part].ravel())
            cells = [pyarrow.array(column[part], kind.type) for column, kind in zip(columns, schema)]
            lists = [pyarrow.FixedSizeListArray.from_arrays(v, found.rows.shape[1]) for v in (near, cosines)]
            writer.write_table(pyarrow.table([*cells, *lists], schema=schema))


def _list_lists(k: int) -> list[pyarrow.Field]:
    kinds = {"neighbours": pyarrow.string(), "similarities": pyarrow.float64()}
    return [pyarrow.field(name, pyarrow.list_(kind, k)) for name, kind in kinds.items()]


def _list_columns(found: Neighbours) -> list[list[Any]]:
    """Lists the cells of ``COLUMNS``."""
    ids, distances = found.stored.ids, found.distances.tolist()
    groups = {row: number for number, one in enumerate(found.duplicates) for row in one.rows}
    copies = {row: ids[of] for one in found.duplicates for row, of in one.copies.items()}
    suggested = {one.row: one.suggested for one in found.disagreements}
    shares = {one.row: one.share for one in found.disagreements}
    by_row = ([*map(cells.get, range(len(ids)))] for cells in (groups, copies, suggested, shares))
    group, copy_of, suggestion, share = by_row
    return [ids, found.stored.column("path"), [*found.labels], distances, group, copy_of, suggestion, share]


def _list_values(found: Neighbours, show: int) -> dict[str, Any]:
    """Lists what stands out, as JSON values."""
    ids = found.stored.ids

    def name(rows: Iterable[int]) -> list[str]:
        return [ids[row] for row in rows]

    return {
        "folder": str(found.stored.folder), "rows": len(ids), "column": found.column, "label": found.label,
        "k": found.rows.shape[1], "threshold": found.threshold,
        "duplicates": [
            {
                "ids": name(one.rows), "similarity": one.similarity, "labels": [*one.labels],
                "copies": {ids[row]: ids[of] for row, of in one.copies.items()},
            }
            for one in found.duplicates
        ],
        "disagreements": [{**asdict(one), "id": ids[one.row]} for one in found.disagreements],
        "outliers": [
            {"id": ids[row], "distance": float(found.distances[row])} for row in found.outliers[:show].tolist()
        ],
        "queries": [
            {"name": one.name, "neighbours": name(one.rows), "similarities": [*one.similarities]}
            for one in found.queries
        ],
    }  # fmt: skip
