"""Folders of embeddings with given features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from classy_vision.embed.folder import VERSION, Folder, Layout, open_shard
from classy_vision.embed.sources import Sample

Array = np.ndarray[Any, Any]


def write_embeddings(
    path: Path,
    features: Mapping[str, Array],
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    paths: Sequence[str | Path] | None = None,
    source: Mapping[str, Any] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    shard_size: int = 4096,
) -> Path:
    """Writes what ``classy embed`` would have written; ids are "00000", "00001", …."""
    count = len(next(iter(features.values())))
    cells = pyarrow.table({**(columns or {})}) if columns else pyarrow.table({"row": [*range(count)]})
    layout = Layout({name: values.shape[1:] for name, values in features.items()}, "float32", cells.schema)
    folder = Folder(path)
    path.mkdir()
    model = {"class": "AnyNet", "config": None, "digest": "0", "trunk_norm": True}
    origin = source or {"kind": "folder", "name": str(path.parent / "images")}
    folder.write_about(
        {
            "version": VERSION,
            "model": {**model, "preprocessing": preprocessing or {}},
            "dtype": "float32",
            "shard_size": shard_size,
            "source": origin,
        }
    )
    for shard, start in enumerate(range(0, count, shard_size)):
        with open_shard(folder.find_shard(shard), layout) as writer:
            for row in range(start, min(start + shard_size, count)):
                place = str(paths[row]) if paths else ""
                sample = Sample(f"{row:05}", None, place, shard, cells.slice(row, 1))
                writer.add(sample, {name: values[row] for name, values in features.items()})
    folder.finish(layout.describe(), -(-count // shard_size))
    return path
