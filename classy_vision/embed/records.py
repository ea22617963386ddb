"""The data of a training config as a collection: the same files, labels and split as ``classy train`` has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow

from classy_vision.config import ConfigError, shown
from classy_vision.data.config import SOURCES, DataConfig
from classy_vision.data.files import TABLES, describe_file
from classy_vision.data.sources import Records, load_records
from classy_vision.embed.sources import Sample, escape

BUILT_IN = ("digits", "scenes")


def read_data(word: str, seen: DataConfig) -> DataConfig:
    """Reads a word that means labelled data.

    Args:
        word: "digits", "scenes", a folder of classes or a table.
        seen: what the model sees of a file.

    Raises:
        ConfigError: it is none of these.
    """
    common = seen.model_dump(include={*DataConfig.model_fields}, exclude_none=True) | {"on_bad_image": "skip"}
    path = os.path.expanduser(word)
    if word in BUILT_IN and not os.path.exists(path):
        return SOURCES[word].parse({**common, "source": word}, "data")
    if os.path.isdir(path):
        return SOURCES["folder"].parse({**common, "source": "folder", "root": path}, "data")
    if path.lower().endswith(TABLES) and os.path.isfile(path):
        return SOURCES["table"].parse({**common, "source": "table", "file": path}, "data")
    raise ConfigError(
        f"{shown(word)} is not data with labels: a folder with one folder per class, a table "
        f"({', '.join(TABLES)}), 'digits' or 'scenes' is needed"
    )


@dataclass(frozen=True)
class RecordSource:
    """Records of a training config.

    Attributes:
        data: which.
        shard_size: the rows in a shard.
    """

    data: DataConfig
    shard_size: int

    def __reduce__(self) -> tuple[Any, ...]:  # other processes load the records themselves
        return RecordSource, (self.data, self.shard_size)

    @cached_property
    def records(self) -> Records:
        """The training and the validation split."""
        return load_records(self.data)

    @property
    def about(self) -> dict[str, Any]:
        seen = self.data.model_dump(mode="json", exclude={*DataConfig.model_fields}, exclude_none=True)
        return {
            "kind": "records",
            "name": str(seen.get("root") or seen.get("file") or seen["source"]),
            "data": seen,
        }

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for row, held in enumerate(self.records.held_out):
            name = self.records.name(row)
            digest.update(f"{escape(name)}\0{describe_file(name)}\0{held}\n".encode())
        return digest.hexdigest()

    @property
    def columns(self) -> pyarrow.Schema:
        return pyarrow.schema([("row", pyarrow.int64())])

    @property
    def shards(self) -> int:
        return -(-len(self.records.images) // self.shard_size)

    @property
    def rows(self) -> int | None:
        return len(self.records.images)

    def read(self, shard: int) -> Iterator[Sample]:
        first = shard * self.shard_size
        for row in range(first, min(first + self.shard_size, len(self.records.images))):
            image, name = self.records.images[row], escape(self.records.name(row))
            cells = pyarrow.table({"row": [row]}, self.columns)
            yield Sample(name, image, name if isinstance(image, Path) else "", shard, cells)

    def check(self) -> None:
        """Does nothing: a few files that are missing are errors."""
