"""The folder of embeddings: shards in Parquet, each there as a whole or not at all, and last a manifest.

``about.json`` says what the shards are of, from the beginning. The errors of a shard are in its own metadata,
so that they are written when it is. ``manifest.json`` and ``errors.csv`` are there once every shard is. Nothing
here needs torch, apart from writing.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from classy_vision.config import ConfigError, shown, system_error, unknown
from classy_vision.embed.sources import Sample
from classy_vision.errors import OperationError

ABOUT, MANIFEST, ERRORS, LOCK = "about.json", "manifest.json", "errors.csv", ".lock"
LISTING, NEW_LISTING = ".source.parquet", ".source.part"
"""The listing of a folder or a table, which is there until the shards are complete."""
LANCE = "embeddings.lance"
"""The Lance dataset, which is a folder."""
VERSION = 1
BUFFER, ROWS = 2**26, 4096
"""Bytes of features, and rows, that are held before they are written."""
DTYPES = {"float16": pyarrow.float16(), "float32": pyarrow.float32()}
FINGERPRINT = "source.fingerprint"
COMPUTED = "computed"
"""How the rows were computed, in one way or in several: sizes of batches, threads and devices."""
WRONG = b"errors"
"""The key of a shard's metadata that has its errors."""
NO_ERRORS = b"[]"


@dataclass(frozen=True)
class Folder:
    """The folder.

    Attributes:
        path: of it.
    """

    path: Path

    # Before there is anything to write

    def check(self, *, resume: bool, force: bool) -> None:
        """Raises where nothing may be written to the folder.

        Raises:
            ConfigError: it holds something else, or embeddings and neither ``resume`` nor ``force`` is set.
        """
        if resume and force:
            raise ConfigError("resume continues what is there, and force replaces it: choose one")
        path = str(self.path)
        if not os.path.lexists(path):
            if resume:
                raise ConfigError(f"cannot resume {path!r}: no such folder")
            return
        if not os.path.isdir(path):
            raise ConfigError(f"{path!r} is not a folder")
        try:
            names = set(os.listdir(path)) - {LOCK}
        except OSError as error:
            raise system_error(error, f"cannot read {path!r}") from None
        if names and ABOUT not in names and not all(map(_is_ours, names)):
            raise ConfigError(f"{path!r} holds something else than embeddings: choose another folder")
        if ABOUT in names and not (resume or force):
            done = "" if MANIFEST in names else ", which are not complete: --resume continues them"
            raise ConfigError(f"{path!r} holds embeddings{done or ' already'}; --force replaces them")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Makes the folder, and keeps other commands out of it.

        Raises:
            ConfigError: the folder cannot be made, or another command writes to it.
        """
        from filelock import FileLock, Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK, timeout=0)
            lock.acquire()
        except Timeout:
            raise ConfigError(
                f"another command writes to {str(self.path)!r}: wait until it has ended"
            ) from None
        except OSError as error:
            raise system_error(error, f"cannot write to {str(self.path)!r}") from None
        try:
            yield
        finally:
            lock.release()

    def clear(self) -> None:
        """Removes embeddings: first what says that they are complete, and last of what they are."""
        self.remove_lance()
        names = [MANIFEST, ERRORS, *filter(_is_data, sorted(os.listdir(self.path))), ABOUT]
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def forget_errors(self, shards: int) -> None:
        """Removes those shards of complete embeddings that lack a sample: why it could not be read may be over.

        Of embeddings that are not complete they stay, so that what is killed again and again gets on.

        Args:
            shards: how many there are.
        """
        if not (self.path / MANIFEST).is_file():
            return
        files = [self.find_shard(i) for i in range(shards) if self._read_errors(i) not in (None, NO_ERRORS)]
        if files:
            self._reopen()
        for file in files:
            file.unlink(missing_ok=True)

    def _reopen(self) -> None:
        """Removes what only complete embeddings have, first of all what says that they are."""
        for name in (MANIFEST, ERRORS):
            (self.path / name).unlink(missing_ok=True)
        self.remove_lance()

    def remove_lance(self) -> None:
        """Removes the Lance dataset, if there is one: all at once, so that a kill leaves no part of it."""
        place, aside = self.path / LANCE, self.path / f".{LANCE}.old.part"
        shutil.rmtree(aside, ignore_errors=True)
        if place.is_dir():
            os.replace(place, aside)
            shutil.rmtree(aside, ignore_errors=True)

    def clean(self) -> None:
        """Removes what processes that were killed have left."""
        for part in self.path.glob(".*.part"):
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)

    # What the shards are of

    def read_about(self) -> dict[str, Any]:
        """Reads what the shards are of.

        Raises:
            ConfigError: it cannot be read.
        """
        return _read_json(self.path / ABOUT)

    def note(self, how: Mapping[str, Any]) -> None:
        """Notes that shards are going to be computed, and how: the size of batches, threads and the device."""
        self._reopen()
        known = self.read_about()
        ways = known.get(COMPUTED, [])
        if how not in ways:
            self.write_about({**known, COMPUTED: [*ways, dict(how)]})

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Writes what the shards are going to be of."""
        _write_text(self.path / ABOUT, json.dumps(about, indent=2) + "\n")

    def check_same(self, about: Mapping[str, Any]) -> None:
        """Raises where the shards that are there are of something else.

        Raises:
            ConfigError: names what is different, and both values.
        """
        there, wanted = _flatten(self.read_about()), _flatten(json.loads(json.dumps(about)))
        for key in sorted({*there, *wanted} - {COMPUTED}, key=FINGERPRINT.__eq__):
            if there.get(key) == wanted.get(key):
                continue
            if key == FINGERPRINT:
                raise ConfigError(
                    f"{shown(wanted.get('source.name'))} has changed since {str(self.path)!r} was begun: "
                    f"choose another folder, or replace what is there with --force"
                )
            raise ConfigError(
                f"{str(self.path)!r} holds embeddings with {key} = {shown(there.get(key))}, and not "
                f"{shown(wanted.get(key))}: choose another folder, or replace them with --force"
            )

    # Shards

    def find_shard(self, index: int) -> Path:
        """Returns the path of a shard."""
        return self.path / f"shard-{index:06}.parquet"

    def holds(self, index: int) -> bool:
        """Tells whether a shard is there; one that is damaged does not count."""
        return self._read_errors(index) is not None

    def _read_errors(self, index: int) -> bytes | None:
        """Reads the errors of a shard as they are written; None where it is not there, or damaged."""
        try:
            found: Mapping[bytes, bytes] = parquet.read_metadata(self.find_shard(index)).metadata or {}
        except (OSError, pyarrow.ArrowException):
            return None
        return found.get(WRONG)

    def finish(self, columns: Mapping[str, Any], shards: int) -> None:
        """Writes the errors and, last, the manifest.

        Args:
            columns: describes those of features.
            shards: how many there are.
        """
        parts, wrong = [], 0
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["id", "path", "error"])
        for index in range(shards):
            found = parquet.read_metadata(self.find_shard(index))
            errors = json.loads(found.metadata[WRONG])
            table.writerows(errors)
            wrong += len(errors)
            parts.append({"file": self.find_shard(index).name, "rows": found.num_rows, "errors": len(errors)})
        rows = sum(part["rows"] for part in parts)
        manifest = {**self.read_about(), "rows": rows, "errors": wrong, "columns": columns, "shards": parts}
        _write_text(self.path / ERRORS, text.getvalue())
        _write_text(self.path / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        (self.path / LISTING).unlink(missing_ok=True)

    def read_manifest(self) -> dict[str, Any]:
        """Reads the manifest.

        Raises:
            ConfigError: there is none, or it is damaged.
        """
        if not (self.path / MANIFEST).is_file():
            if (self.path / ABOUT).is_file():
                raise ConfigError(f"{str(self.path)!r} is not complete: classy embed --resume continues it")
            raise ConfigError(f"{str(self.path)!r} is not a folder of embeddings: it has no {MANIFEST}")
        return _read_json(self.path / MANIFEST)


def _is_shard(name: str) -> bool:
    return name.startswith("shard-") and name.endswith(".parquet")


def _is_data(name: str) -> bool:
    """Whether a file has rows, or maps some of them into memory."""
    return _is_shard(name) or (name.startswith(".") and name.endswith(".npy"))


def _is_ours(name: str) -> bool:
    return _is_data(name) or name in (MANIFEST, ERRORS, LISTING, LANCE) or name.endswith(".part")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {str(file)!r}: {error}") from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ConfigError(f"{str(file)!r} is not of version {VERSION} of embeddings")
    return found


def _write_text(file: Path, text: str) -> None:
    from classy_vision.atomic import replacing

    with replacing(file) as beside:
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested mappings by joined keys."""
    found: dict[str, Any] = {}
    for key, part in value.items():
        found.update(_flatten(part, f"{prefix}{key}.") if isinstance(part, dict) else {f"{prefix}{key}": part})
    return found


# -- one shard


@dataclass(frozen=True)
class Layout:
    """The columns of shards.

    Attributes:
        shapes: of features and outputs by column, without n.
        dtype: in which they are written: "float16" or "float32".
        columns: of the source.
    """

    shapes: Mapping[str, tuple[int, ...]]
    dtype: str
    columns: pyarrow.Schema

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)

    def check(self, names: Container[str]) -> None:
        """Raises where a column of the source is called as one of the features ``names``.

        Raises:
            ConfigError: it is.
        """
        if (odd := next((name for name in self.columns.names if name in names), None)) is not None:
            raise ConfigError(f"the source has a column {odd!r}, which is the name of a feature: rename it")

    @property
    def schema(self) -> pyarrow.Schema:
        """The schema of a shard."""
        names = [pyarrow.field(name, pyarrow.string()) for name in ("id", "path")]
        values = [
            pyarrow.field(
                name, pyarrow.list_(DTYPES[self.dtype], prod(shape)), metadata={"shape": json.dumps(shape)}
            )
            for name, shape in self.shapes.items()
        ]
        return pyarrow.schema([*names, *self.columns, *values])

    @property
    def texts(self) -> list[str]:
        """The columns that are not features."""
        return ["id", "path", *self.columns.names]

    @property
    def row_bytes(self) -> int:
        """The bytes of the features of a row."""
        return sum(map(prod, self.shapes.values())) * DTYPES[self.dtype].bit_width // 8

    def describe(self) -> dict[str, Any]:
        """Describes the columns of features as JSON values."""
        return {name: {"shape": [*shape], "dtype": self.dtype} for name, shape in self.shapes.items()}


class ShardWriter:
    """Writes rows to a shard; ``open_shard`` makes one."""

    def __init__(self, file: Any, layout: Layout) -> None:
        self._layout = layout
        self._writer = parquet.ParquetWriter(
            file,
            layout.schema,
            compression=dict.fromkeys(layout.texts, "zstd"),
            use_dictionary=layout.columns.names,
            write_statistics=layout.texts,
        )
        self._size = max(1, min(ROWS, BUFFER // max(1, layout.row_bytes)))
        self._rows: list[tuple[str, str, pyarrow.Table | None]] = []  # without what the samples are read from
        self._values: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in layout.shapes}
        self._errors: list[tuple[str, str, str]] = []

    def add(self, sample: Sample, outputs: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Adds a row."""
        self._rows.append((sample.name, sample.path, sample.cells))
        for name, values in self._values.items():
            values.append(outputs[name])
        if len(self._rows) >= self._size:
            self._flush()

    def add_error(self, sample: Sample, reason: str) -> None:
        """Adds a sample that cannot be read."""
        self._errors.append((sample.name, sample.path, reason))

    def close(self) -> None:
        """Writes what is left."""
        self._flush()
        self._writer.add_key_value_metadata({WRONG.decode(): json.dumps(self._errors)})
        self._writer.close()

    def drop(self) -> None:
        """Gives the file up, which nobody is going to read."""
        with suppress(Exception):
            self._writer.close()

    def _flush(self) -> None:
        if not self._rows:
            return
        ids, paths, rows = zip(*self._rows)
        arrays = [pyarrow.array(ids, pyarrow.string()), pyarrow.array(paths, pyarrow.string())]
        if self._layout.columns.names:
            cells = pyarrow.concat_tables(rows).cast(self._layout.columns)
            arrays += [column.combine_chunks() for column in cells.columns]
        arrays += [self._convert(name, values) for name, values in self._values.items()]
        self._writer.write_table(pyarrow.table(arrays, schema=self._layout.schema))
        self._rows = []
        self._values = {name: [] for name in self._values}

    def _convert(self, name: str, values: Sequence[np.ndarray[Any, Any]]) -> pyarrow.Array:
        """Returns the values of a column in the type in which they are written.

        Raises:
            OperationError: a finite value is beyond it.
        """
        before = np.stack(values).reshape(len(values), -1)
        with np.errstate(over="ignore"):
            after = before.astype(self._layout.dtype)
        if self._layout.dtype == "float16" and (np.isinf(after) & np.isfinite(before)).any():
            largest = np.abs(before[np.isfinite(before)]).max()
            raise OperationError(
                f"{name!r} has values up to {largest:.4g}, which float16 does not hold: use --dtype float32 "
                f"and another folder"
            )
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(after.reshape(-1)), before.shape[1])


@contextmanager
def open_shard(file: Path, layout: Layout) -> Iterator[ShardWriter]:
    """Gives a writer of a shard, which takes its place when all is well.

    Raises:
        OperationError: the disk is full, or fails.
        ConfigError: it cannot be written there.
    """
    from classy_vision.atomic import replacing

    with replacing(file) as beside, open(beside, "wb") as target:
        writer = ShardWriter(target, layout)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.drop()
            raise
