"""Collections of images and videos, cut into shards of samples that are the same in every process.

A folder or a table is listed once, into a file with a row group for each shard. What was interrupted reads that
listing again, so that files that are added or removed meanwhile move nothing to another shard. Nothing here
needs torch, and no listing is held in memory.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import pyarrow
from pyarrow import parquet

from classy_vision.config import ConfigError, first_line, shown, system_error
from classy_vision.data.config import TableConfig
from classy_vision.data.files import SUFFIXES, TABLES, describe_file, walk
from classy_vision.data.images import ImageError
from classy_vision.data.sources import SPLITS
from classy_vision.errors import FAILURES, OperationError
from classy_vision.predict.inputs import Input

HUGGING_FACE = "hf:"
TAR = ".tar"
END_OF_TAR = bytes(512)
"""A tar file ends with blocks of zeros."""
TEXTS = {"cls": "label", "txt": "text", "json": "json"}
"""Members of a sample in a tar file that become columns, and what these are called."""
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
RESERVED = ("id", "path")
FAILED = FAILURES | {errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT}
"""Errors of the system that are not about a file, which may be readable soon."""
SLICE = 64
"""Rows of a Hugging Face dataset that are in memory at once."""


@dataclass(frozen=True)
class Sample(Input):
    """An image or a video of a collection.

    Attributes:
        name: its id, as results and messages call it.
        source: what it is read from; an error where that is known to fail.
        path: where it comes from.
        shard: the number of its shard.
        cells: a row with the columns of the source, where it has any.
    """

    path: str = ""
    shard: int = 0
    cells: pyarrow.Table | None = None


class Source(Protocol):
    """A collection, cut into shards."""

    @property
    def about(self) -> dict[str, Any]:
        """What and where it is, as JSON values."""

    @property
    def fingerprint(self) -> str:
        """A digest that changes with the names, the sizes and the times of what is read."""

    @property
    def columns(self) -> pyarrow.Schema:
        """The columns that it gives beside ids and paths."""

    @property
    def shards(self) -> int:
        """The number of shards."""

    @property
    def rows(self) -> int | None:
        """The number of samples; None where only reading everything would tell."""

    def read(self, shard: int) -> Iterator[Sample]:
        """Yields the samples of a shard, always in one order."""

    def check(self) -> None:
        """Raises if the collection is not there any more."""


def find_kind(word: str) -> str:
    """Tells what kind of collection ``word`` names: "folder", "table", "tar" or "hugging face".

    Raises:
        ConfigError: there is no such collection.
    """
    if word.startswith(HUGGING_FACE):
        return "hugging face"
    path = os.path.expanduser(word)
    if os.path.isdir(path):
        return "tar" if _holds_tars(path) else "folder"
    if path.lower().endswith(TAR):
        _find_tars(path)
        return "tar"
    if path.lower().endswith(TABLES) and os.path.isfile(path):
        return "table"
    if not os.path.exists(path):
        raise ConfigError(f"there is no file and no folder {shown(word)}")
    raise ConfigError(
        f"{shown(word)} is not a collection: a folder, a table ({', '.join(TABLES)}), {TAR} files or "
        f"{HUGGING_FACE}NAME is needed"
    )


def open_source(word: str, unit: str, listing: Path, shard_size: int, *, resume: bool = False) -> Source:
    """Opens the collection that ``word`` names.

    Args:
        word: a folder, a table, tar files as WebDataset has them ("shards/{000..099}.tar", a pattern, or a
            folder of them), or a Hugging Face dataset ("hf:NAME" or "hf:FOLDER", and ":SPLIT").
        unit: "image" or "video".
        listing: the file for the listing of a folder or a table.
        shard_size: the rows in a shard.
        resume: read the listing that is there.

    Raises:
        ConfigError: there is no such collection, or it cannot be read.
    """
    kind = find_kind(word)
    if kind == "hugging face":
        return HuggingFace(word, shard_size, unit)
    if kind == "tar":
        return Tars(word, unit)
    if not (resume and listing.is_file()):
        path = os.path.expanduser(word)
        write_listing(list_folder(path, unit) if kind == "folder" else list_table(path), listing, shard_size)
    return Listing(listing, word, kind)


def stop_at_failure(error: BaseException | None, name: str) -> None:
    """Raises where the system has failed, and not a file: as an error of the sample it would stand for good.

    Args:
        error: with which reading has failed.
        name: of what was read.

    Raises:
        OperationError: the system has failed.
    """
    if not isinstance(error, OSError) or type(error).__module__ != "builtins":
        return  # libav says so of damaged videos, too
    if error.errno in FAILED:
        raise OperationError(f"cannot read {shown(name)}: {error.strerror}; --resume continues") from None


# -- folders and tables


@dataclass(frozen=True)
class Listing:
    """A folder or a table, by a listing in a file.

    Attributes:
        file: the listing.
        word: the folder or the table.
        kind: which of them it is.
    """

    file: Path
    word: str
    kind: str

    def __reduce__(self) -> tuple[Any, ...]:  # an open file stays in its process
        return Listing, (self.file, self.word, self.kind)

    @cached_property
    def _parquet(self) -> parquet.ParquetFile:
        return parquet.ParquetFile(self.file)

    @property
    def about(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": os.path.abspath(os.path.expanduser(self.word))}

    @property
    def fingerprint(self) -> str:
        return self._parquet.metadata.metadata[b"fingerprint"].decode()

    @property
    def columns(self) -> pyarrow.Schema:
        return pyarrow.schema([field for field in self._parquet.schema_arrow if field.name not in RESERVED])

    @property
    def shards(self) -> int:
        return self._parquet.num_row_groups

    @property
    def rows(self) -> int | None:
        return self._parquet.metadata.num_rows

    def read(self, shard: int) -> Iterator[Sample]:
        table = self._parquet.read_row_group(shard)
        ids, paths = table.column("id").to_pylist(), table.column("path").to_pylist()
        cells = table.drop_columns([*RESERVED])
        for row, (name, path) in enumerate(zip(ids, paths)):
            file = os.fsdecode(path)
            yield Sample(name, Path(file), escape(file), shard, cells.slice(row, 1))

    def check(self) -> None:
        if not os.path.exists(self.about["name"]):
            raise OperationError(f"{self.about['name']!r} is not there any more")


def list_folder(root: str, unit: str) -> Iterator[pyarrow.Table]:
    """Yields the files in a folder as tables of an id, a path and what the names of folders say.

    The first folder of a path is the label; if it is the name of a split ("train", "val"), the second one is.

    Raises:
        ConfigError: there is no image in the folder, or it cannot be read.
    """
    try:
        folders = [entry.name for entry in os.scandir(root) if entry.is_dir()]
        paths = walk(root, unit)
        names = [*["split"] * any(name.lower() in SPLITS for name in folders), *["label"] * bool(folders)]
        while chunk := [*islice(paths, 4096)]:
            parts = [os.path.relpath(path, root).split(os.sep) for path in chunk]
            cells = [_read_folders([*map(escape, part[:-1])]) for part in parts]
            yield pyarrow.table(
                {
                    "id": pyarrow.array([escape("/".join(part)) for part in parts], pyarrow.string()),
                    "path": pyarrow.array(map(os.fsencode, chunk), pyarrow.binary()),
                    **{n: pyarrow.array([cell[n] for cell in cells], pyarrow.string()) for n in names},
                }
            )
    except OSError as error:
        raise system_error(error, f"cannot read {shown(error.filename or root)}") from None


def _read_folders(parts: list[str]) -> dict[str, str | None]:
    split = parts.pop(0) if parts and parts[0].lower() in SPLITS else None
    return {"split": split, "label": parts[0] if parts else None}


def list_table(file: str) -> Iterator[pyarrow.Table]:
    """Yields the rows of a CSV or Parquet file with a column ``path``; a column ``id`` gives the ids.

    Relative paths start at the table's folder.

    Raises:
        ConfigError: the table cannot be read, or lacks a path or an id.
    """
    root, first = os.path.dirname(file), 1
    for table in _read_table(file):
        if "path" not in table.column_names:
            raise ConfigError(f"{file} has no column 'path' (columns: {', '.join(table.column_names)})")
        cells = table.column("path").to_pylist()
        if (empty := next((i for i, cell in enumerate(cells) if not isinstance(cell, str)), None)) is not None:
            raise ConfigError(f"{file}, row {first + empty}: there is no path")
        ids = [escape(cell) for cell in cells]
        if "id" in table.column_names:
            ids = _read_ids(table.column("id").to_pylist(), file, first)
        paths = [os.fsencode(os.path.join(root, cell)) for cell in cells]
        columns = {name: table.column(name) for name in table.column_names if name not in RESERVED}
        first += len(cells)
        yield pyarrow.table(
            {
                "id": pyarrow.array(ids, pyarrow.string()),
                "path": pyarrow.array(paths, pyarrow.binary()),
                **columns,
            }
        )


def _read_ids(cells: list[Any], where: str, first: int) -> list[str]:
    """Reads ids as texts; ``first`` is the number of their first row.

    Raises:
        ConfigError: one is missing.
    """
    if None in cells:
        raise ConfigError(f"{where}, row {first + cells.index(None)}: the id is missing")
    return [str(cell) for cell in cells]


def _read_table(file: str) -> Iterator[pyarrow.Table]:
    """Yields a table in parts; one of CSV is held in memory, as text, while it is listed."""
    if file.lower().endswith(".parquet"):
        try:
            for batch in parquet.ParquetFile(file).iter_batches():
                yield pyarrow.Table.from_batches([batch])
        except (OSError, pyarrow.ArrowException) as error:
            raise ConfigError(f"cannot read {shown(file)}: {first_line(error)}") from None
        return
    from classy_vision.data.tables import read_columns

    columns = read_columns(Path(file), TableConfig(source="table", file=file))
    yield pyarrow.table({name: pyarrow.array(read(), pyarrow.string()) for name, read in columns.items()})


def write_listing(tables: Iterable[pyarrow.Table], file: Path, shard_size: int) -> None:
    """Writes tables to a Parquet file with ``shard_size`` rows in each row group.

    Raises:
        ConfigError: there are no rows, or the file cannot be written.
    """
    from classy_vision.atomic import replacing

    digest, parts = hashlib.sha256(), iter(tables)
    first = next(parts, None)
    if first is None or not first.num_rows:
        raise ConfigError("the collection is empty: there is nothing to embed")
    with replacing(file) as beside, parquet.ParquetWriter(beside, first.schema) as writer:
        for table in _cut(chain([first], parts), shard_size):
            for name, path in zip(table.column("id").to_pylist(), table.column("path").to_pylist()):
                digest.update(f"{name}\0{describe_file(path)}\n".encode())
            writer.write_table(table, shard_size)
        writer.add_key_value_metadata({"fingerprint": digest.hexdigest()})


def _cut(tables: Iterable[pyarrow.Table], size: int) -> Iterator[pyarrow.Table]:
    """Yields the rows of tables in tables of ``size`` rows; the last one may have fewer."""
    rest: pyarrow.Table | None = None
    for table in tables:
        rest = table if rest is None else pyarrow.concat_tables([rest, table])
        while rest.num_rows >= size:
            yield rest.slice(0, size)
            rest = rest.slice(size)
    if rest is not None and rest.num_rows:
        yield rest


def escape(text: str) -> str:
    """Escapes bytes in names of files that no encoding has."""
    return text.encode("utf-8", "backslashreplace").decode()


# -- tar files


@dataclass(frozen=True)
class Part:
    """A member of a tar file.

    Attributes:
        file: the tar file.
        offset, size: where its bytes are.
    """

    file: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Reads its bytes.

        Raises:
            OSError: the file ends before them, or cannot be read.
        """
        with open(self.file, "rb") as file:
            file.seek(self.offset)
            found = file.read(self.size)
        if len(found) < self.size:
            raise OSError("the tar file is cut short")
        return found


@dataclass(frozen=True)
class Tars:
    """Tar files as WebDataset has them: a shard each, a sample for each name before the first dot.

    Attributes:
        word: a file, a pattern of files, or a folder of them.
        unit: "image"; videos are not read from tar files.
    """

    word: str
    unit: str = "image"
    _files: list[str] = field(init=False)

    def __post_init__(self) -> None:
        if self.unit != "image":
            raise ConfigError(
                f"{shown(self.word)}: {self.unit}s are read from folders and tables, not from tar files"
            )
        object.__setattr__(self, "_files", _find_tars(os.path.expanduser(self.word)))

    @property
    def about(self) -> dict[str, Any]:
        return {
            "kind": "tar",
            "name": os.path.abspath(os.path.expanduser(self.word)),
            "files": len(self._files),
        }

    @property
    def fingerprint(self) -> str:
        lines = (f"{os.path.basename(file)}\0{describe_file(file)}\n" for file in self._files)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    @cached_property
    def columns(self) -> pyarrow.Schema:
        """Those of the samples in the first tar file that has some; all are text."""
        ends = next(filter(None, map(_list_ends, self._files)), set[str]())
        return pyarrow.schema([(name, pyarrow.string()) for end, name in TEXTS.items() if end in ends])

    @property
    def shards(self) -> int:
        return len(self._files)

    @property
    def rows(self) -> int | None:
        return None

    def read(self, shard: int) -> Iterator[Sample]:
        file = self._files[shard]
        try:
            for key, parts in _group(file):
                yield self._make(key, parts, shard)
        except (OSError, tarfile.TarError) as error:
            stop_at_failure(error, file)
            reason = "it is damaged or cut short" if isinstance(error, tarfile.TarError) else error
            name = os.path.basename(file)
            wrong = ImageError(Path(file), f"{reason}: the samples that it should have after this are missing")
            yield Sample(escape(name), wrong, escape(file), shard, self._find_cells({}))

    def _make(self, key: str, parts: dict[str, Part], shard: int) -> Sample:
        file = self._files[shard]
        image = next((end for end in parts if f".{end}" in SUFFIXES["image"]), None)
        source: Any = parts[image] if image else ImageError(Path(file, key), "the sample has no image")
        return Sample(
            escape(key), source, escape(f"{file}/{key}.{image or ''}"), shard, self._find_cells(parts)
        )

    def _find_cells(self, parts: dict[str, Part]) -> pyarrow.Table:
        cells: dict[str, list[str | None]] = {name: [None] for name in self.columns.names}
        for end, name in TEXTS.items():
            if name in cells and end in parts:
                try:
                    cells[name] = [parts[end].read().decode("utf-8", "backslashreplace").strip()]
                except OSError as error:  # the image, which comes with it, is missing as well
                    stop_at_failure(error, parts[end].file)
        return pyarrow.table(cells, self.columns)

    def check(self) -> None:
        if not os.path.exists(os.path.dirname(self._files[0]) or "."):
            raise OperationError(f"{os.path.dirname(self._files[0])!r} is not there any more")


def _list_ends(file: str) -> set[str]:
    """Lists what follows the first dot in the names of members, as far as a tar file can be read.

    Raises:
        ConfigError: it cannot be opened.
    """
    ends = set[str]()
    try:
        for _, parts in _group(file):
            ends |= parts.keys()
    except tarfile.TarError:  # whoever reads it says so
        pass
    except OSError as error:
        stop_at_failure(error, file)
        raise system_error(error, f"cannot read {shown(file)}") from None
    return ends


def _group(file: str) -> Iterator[tuple[str, dict[str, Part]]]:
    """Yields the samples of a tar file: the key, and the members by what follows the first dot.

    Raises:
        tarfile.TarError: the file is cut short, after the samples before that.
    """
    key, parts = "", dict[str, Part]()
    wrong: tarfile.TarError | None = None
    members = _walk_tar(file)
    while True:
        try:
            member = next(members, None)
        except tarfile.TarError as error:
            member, wrong = None, error
        folder, _, name = member.name.rpartition("/") if member else ("", "", "")
        stem, _, end = name.partition(".")
        found = f"{folder}/{stem}".lstrip("/") if member else ""
        if parts and found != key:
            yield key, parts
            parts = {}
        if member is None:
            break
        key = found
        parts[end.lower()] = Part(file, member.offset_data, member.size)
    if wrong:
        raise wrong


def _walk_tar(file: str) -> Iterator[tarfile.TarInfo]:
    """Yields the members that belong to samples.

    Raises:
        tarfile.TarError: the file is not a tar file, or is cut short; the members before that have been given.
    """
    with tarfile.open(file, "r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would grow with the file
            if member.isfile() and _is_part(member.name):
                yield member
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        if tar.fileobj.read(512) != END_OF_TAR:
            raise tarfile.ReadError("unexpected end of data")


def _is_part(name: str) -> bool:
    """Tells whether a name has something before and after a first dot, unlike "README" and ".DS_Store"."""
    stem, dot, _ = name.rpartition("/")[2].partition(".")
    return bool(stem and dot)


def _find_tars(word: str) -> list[str]:
    """Lists the tar files that a word means: a file, a pattern, a range, or a folder.

    Raises:
        ConfigError: there are none.
    """
    if os.path.isdir(word):
        word = os.path.join(glob.escape(word), f"*{TAR}")
    if found := RANGE.search(word):
        first, last = found.groups()
        numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
        files = [word[: found.start()] + number + word[found.end() :] for number in numbers]
    else:
        files = sorted(glob.glob(word)) or [word]
    if (missing := next((file for file in files if not os.path.isfile(file)), None)) is not None:
        raise ConfigError(f"there is no tar file {shown(missing)}")
    return files


def _holds_tars(folder: str) -> bool:
    """Tells whether a folder holds tar files and no other files or folders."""
    seen = [entry.name for entry in islice(os.scandir(folder), 1000) if not entry.name.startswith(".")]
    return (
        bool(seen)
        and all(name.endswith((TAR, ".json", ".idx", ".txt")) for name in seen)
        and any(name.endswith(TAR) for name in seen)
    )


# -- Hugging Face datasets


class HuggingFace:
    """A dataset of the ``datasets`` library: a folder of ``save_to_disk``, or a name that it loads.

    Args:
        word: names it.
        shard_size: the rows in a shard.
        unit: "image"; videos are not read from such datasets.

    Raises:
        ConfigError: the library is not installed, it has no such dataset, or that has no images or is empty.
    """

    def __init__(self, word: str, shard_size: int, unit: str = "image") -> None:
        if unit != "image":
            raise ConfigError(
                f"{shown(word)}: {unit}s are read from folders and tables, not from Hugging Face datasets"
            )
        self._word, self._size = word, shard_size
        self._data, self._image, self._labels = _load_dataset(word)
        if not len(self._data):
            raise ConfigError("the collection is empty: there is nothing to embed")

    @property
    def about(self) -> dict[str, Any]:
        return {"kind": "hugging face", "name": self._word}

    @property
    def fingerprint(self) -> str:
        return str(self._data._fingerprint)

    @cached_property
    def columns(self) -> pyarrow.Schema:
        return self._convert(self._data.with_format("arrow")[:0])[1].schema

    @property
    def shards(self) -> int:
        return -(-len(self._data) // self._size)

    @property
    def rows(self) -> int | None:
        return len(self._data)

    def read(self, shard: int) -> Iterator[Sample]:
        start = shard * self._size
        end = min(start + self._size, len(self._data))
        for first in range(start, end, SLICE):
            yield from self._read_rows(first, min(first + SLICE, end), shard)

    def _read_rows(self, first: int, end: int, shard: int) -> Iterator[Sample]:
        table = self._data.with_format("arrow")[first:end]
        images, cells = self._convert(table)
        names = {*RESERVED} & {*table.column_names} - {self._image}
        given = {name: table.column(name).to_pylist() for name in names}
        ids = [str(row) for row in range(first, end)]
        if "id" in given:
            ids = _read_ids(given["id"], self._word, first + 1)
        paths = given.get("path", [None] * len(ids))
        for row, (name, image, said) in enumerate(zip(ids, images.to_pylist(), paths)):
            path = (image or {}).get("path") or ""
            source: Any = (image or {}).get("bytes") or (Path(path) if path else None)
            if source is None:
                source = ImageError(Path(name), "the row has no image")
            yield Sample(name, source, escape(str(said or path)), shard, cells.slice(row, 1))

    def check(self) -> None:
        """Does nothing: the library holds its files open."""

    def _convert(self, table: pyarrow.Table) -> tuple[pyarrow.ChunkedArray, pyarrow.Table]:
        """Separates images from other columns; numbers of classes become their names."""
        others = {
            name: table.column(name) for name in table.column_names if name not in (self._image, *RESERVED)
        }
        for name in self._labels.keys() & others.keys():
            numbers = others[name].to_pylist()
            names = [None if n is None or n < 0 else self._labels[name][n] for n in numbers]
            others[name] = pyarrow.chunked_array([pyarrow.array(names, pyarrow.string())])
        return table.column(self._image), pyarrow.table(others)


def _load_dataset(word: str) -> tuple[Any, str, dict[str, Sequence[str]]]:
    """Loads a dataset; returns it with the name of its column of images, and its names of classes by column."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise ConfigError(f"{shown(word)} needs the package datasets: pip install datasets") from None
    name, _, split = word.removeprefix(HUGGING_FACE).partition(":")
    try:
        found = (
            datasets.load_from_disk(os.path.expanduser(name))
            if os.path.isdir(os.path.expanduser(name))
            else None
        )
        found = datasets.load_dataset(name) if found is None else found
    except Exception as error:  # of many kinds
        raise ConfigError(f"datasets cannot load {shown(name)}: {first_line(error)}") from None
    if isinstance(found, dict):
        split = split or next(iter(found))
        if split not in found:
            raise ConfigError(f"{shown(word)} has no split {split!r} (splits: {', '.join(found)})")
        found = found[split]
    kinds = {column: type(feature).__name__ for column, feature in found.features.items()}
    image = next((column for column, kind in kinds.items() if kind == "Image"), None)
    if image is None:
        raise ConfigError(f"{shown(word)} has no column of images (columns: {', '.join(kinds)})")
    labels = {column: found.features[column].names for column, kind in kinds.items() if kind == "ClassLabel"}
    return found.cast_column(image, datasets.Image(decode=False)), image, labels
