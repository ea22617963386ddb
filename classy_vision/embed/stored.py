"""Embeddings read back from a folder, as arrays. Nothing here needs torch, apart from tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pyarrow import parquet

from classy_vision.config import ConfigError, system_error, unknown
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
        names = parquet.read_schema(self.folder / self.manifest["shards"][0]["file"]).names
        return [name for name in names if name not in self.manifest["columns"]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest["columns"])

    def __len__(self) -> int:
        return len(self.manifest["columns"])

    def __getitem__(self, name: str) -> Array:
        """Reads features or outputs: an array (n, …) in the dtype in which they were written."""
        found = np.empty(self.shape(name), self._find(name)["dtype"])
        self._fill(name, found)
        return found

    def tensor(self, name: str) -> Tensor:
        """Reads features or outputs as a tensor (n, …)."""
        import torch

        return torch.from_numpy(self[name])

    def memmap(self, name: str) -> np.memmap[Any, Any]:
        """Maps features or outputs into memory, from a ``.npy`` file that the first call writes.

        Raises:
            ConfigError: the file cannot be written.
        """
        file = self.folder / f".{name.replace('/', '.')}.npy"
        stale = (
            not file.is_file() or file.stat().st_mtime_ns < (self.folder / "manifest.json").stat().st_mtime_ns
        )
        if stale:
            beside = file.with_name(f"{file.name}.{os.getpid()}.part")
            try:
                target = np.lib.format.open_memmap(
                    beside, "w+", np.dtype(self._find(name)["dtype"]), self.shape(name)
                )
                self._fill(name, target)
                target.flush()
                os.replace(beside, file)
            except OSError as error:
                raise system_error(error, f"cannot write {str(file)!r}") from None
            finally:
                beside.unlink(missing_ok=True)
        found: np.memmap[Any, Any] = np.load(file, mmap_mode="r")
        return found

    def column(self, name: str) -> list[Any]:
        """Reads ids, paths or a column of the source.

        Raises:
            UnknownNameError: there is no such column.
        """
        if name not in self.columns:
            raise unknown("column", name, self.columns, str(self.folder))
        files = [self.folder / part["file"] for part in self.manifest["shards"]]
        return [
            cell for file in files for cell in parquet.read_table(file, columns=[name]).column(name).to_pylist()
        ]

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of features or outputs, (n, …)."""
        return (self.rows, *self._find(name)["shape"])

    def _find(self, name: str) -> Mapping[str, Any]:
        if name not in self.manifest["columns"]:
            raise unknown("column", name, self.manifest["columns"], str(self.folder))
        return dict(self.manifest["columns"][name])

    def _fill(self, name: str, target: Array) -> None:
        """Reads a column into an array, a row group at a time."""
        start, flat = 0, target.reshape(len(target), -1)
        for part in self.manifest["shards"]:
            try:
                file = parquet.ParquetFile(self.folder / part["file"], memory_map=True)
                for group in range(file.num_row_groups):
                    values = file.read_row_group(group, [name]).column(name).combine_chunks()
                    rows = values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
                    flat[start : start + len(rows)] = rows
                    start += len(rows)
            except OSError as error:
                raise ConfigError(f"cannot read {part['file']!r} in {str(self.folder)!r}: {error}") from None


def load(folder: str | Path) -> Embeddings:
    """Opens embeddings that ``classy embed`` wrote.

    Args:
        folder: where they are.

    Raises:
        ConfigError: they are not there, or not complete.
    """
    path = Path(os.path.expanduser(folder))
    return Embeddings(path, Folder(path).read_manifest())
