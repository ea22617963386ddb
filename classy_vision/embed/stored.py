"""Embeddings read back from a folder, as arrays. Nothing here needs torch, apart from tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow
from pyarrow import parquet

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.embed.folder import Folder

if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Embeddings(Mapping[str, Array]):
    """Embeddings of a collection, read when they are asked for: ``found["block3/mean"]`` is an array (n, c).

    The order is that of the source, without the samples that could not be read.

    Attributes:
        folder: where they are.
        manifest: what they are of.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """The number of rows, n."""
        return int(self.manifest["rows"])

    @cached_property
    def ids(self) -> list[str]:
        """The ids of rows."""
        return self.column("id")

    @property
    def columns(self) -> list[str]:
        """The columns that ``column`` reads: ids, paths, and those of the source."""
        if not self._files:
            return ["id", "path"]
        with self._open(self._files[0]) as file:
            names: list[str] = file.schema_arrow.names
        return [name for name in names if name not in self.manifest["columns"]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest["columns"])

    def __len__(self) -> int:
        return len(self.manifest["columns"])

    def __getitem__(self, name: str) -> Array:
        """Reads features or outputs: an array (n, …) in the dtype in which they were written."""
        found = np.empty(self.shape(name), self._find(name)["dtype"])
        start = 0
        for rows in self._read_rows(name):
            found[start : start + len(rows)] = rows
            start += len(rows)
        return found

    def tensor(self, name: str) -> Tensor:
        """Reads features or outputs as a tensor (n, …)."""
        import torch

        return torch.from_numpy(self[name])

    def memmap(self, name: str) -> np.memmap[Any, Any]:
        """Maps features or outputs into memory, from a ``.npy`` file that the first call writes.

        Raises:
            OperationError: the disk is full, or fails.
            ConfigError: the file cannot be written.
        """
        file = self.folder / f".{name.replace('/', '.')}.npy"
        stale = (
            not file.is_file() or file.stat().st_mtime_ns < (self.folder / "manifest.json").stat().st_mtime_ns
        )
        if stale:
            self._write_array(name, file)
        found: np.memmap[Any, Any] = np.load(file, mmap_mode="r")
        return found

    def column(self, name: str) -> list[Any]:
        """Reads ids, paths or a column of the source.

        Raises:
            UnknownNameError: there is no such column.
            ConfigError: a file of rows cannot be read.
        """
        if name not in self.columns:
            raise unknown("column", name, self.columns, str(self.folder))
        cells: list[Any] = []
        for part in self._files:
            with self._open(part) as file:
                cells += file.read([name]).column(name).to_pylist()
        return cells

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of features or outputs, (n, …)."""
        return (self.rows, *self._find(name)["shape"])

    def _find(self, name: str) -> Mapping[str, Any]:
        if name not in self.manifest["columns"]:
            raise unknown("column", name, self.manifest["columns"], str(self.folder))
        return dict(self.manifest["columns"][name])

    @property
    def _files(self) -> list[str]:
        return [part["file"] for part in self.manifest["shards"]]

    @contextmanager
    def _open(self, name: str) -> Iterator[parquet.ParquetFile]:
        """Opens a file of rows.

        Raises:
            ConfigError: it is not there, or is damaged.
        """
        try:
            with parquet.ParquetFile(self.folder / name, memory_map=True) as file:
                yield file
        except (OSError, pyarrow.ArrowException) as error:
            raise ConfigError(
                f"cannot read {name!r} in {str(self.folder)!r}, which classy embed --resume makes again: "
                f"{first_line(error)}"
            ) from None

    def _read_rows(self, name: str) -> Iterator[Array]:
        """Yields a column as arrays (n, …), one for each row group.

        Raises:
            ConfigError: a file cannot be read, or there are more or fewer rows than the manifest says.
        """
        (wanted, *shape), count = self.shape(name), 0
        for part in self._files:
            with self._open(part) as file:
                for group in range(file.num_row_groups):
                    values = file.read_row_group(group, [name]).column(name).combine_chunks()
                    rows = values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), *shape)
                    count += len(rows)
                    if count <= wanted:
                        yield rows
        if count != wanted:
            raise ConfigError(f"{str(self.folder)!r} has {count:,} rows, and its manifest says {wanted:,}")

    def _write_array(self, name: str, file: Path) -> None:
        """Writes a column to a ``.npy`` file from its beginning to its end.

        On a full disk that is an error; a mapping that finds no place ends the process.
        """
        from classy_vision.atomic import replacing

        kind = np.dtype(self._find(name)["dtype"])
        header = {"descr": kind.str, "fortran_order": False, "shape": self.shape(name)}
        with replacing(file) as beside, open(beside, "wb") as target:
            np.lib.format.write_array_header_1_0(target, header)
            for rows in self._read_rows(name):
                target.write(np.ascontiguousarray(rows, kind).data)


def load(folder: str | Path) -> Embeddings:
    """Opens embeddings that ``classy embed`` wrote.

    Args:
        folder: where they are.

    Raises:
        ConfigError: they are not there, or not complete.
    """
    path = Path(os.path.expanduser(folder))
    return Embeddings(path, Folder(path).read_manifest())
