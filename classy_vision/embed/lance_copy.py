"""A Lance dataset of embeddings, copied from complete shards in one commit.

The shards stay what is written, killed and continued: a dataset is there with all rows, or not at all.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow.parquet import ParquetFile, read_schema

from classy_vision.config import ConfigError
from classy_vision.embed.folder import LANCE, Folder
from classy_vision.errors import OperationError, first_line

ROWS = 1024
"""That are in memory at once."""


def check_lance() -> None:
    """Raises where Lance is not installed.

    Raises:
        ConfigError: says what to install.
    """
    if find_spec("lance") is None:
        raise ConfigError("Lance needs the package pylance: pip install 'classy-vision-models[lance]'")


def write_lance(folder: Folder) -> Path:
    """Copies all rows of complete embeddings to a Lance dataset in their folder; one that is there is replaced.

    Raises:
        ConfigError: the embeddings are not complete.
        OperationError: the dataset cannot be written.
    """
    import lance

    files = [folder.path / part["file"] for part in folder.read_manifest()["shards"]]
    beside, place = folder.path / f".{LANCE}.part", folder.path / LANCE
    shutil.rmtree(beside, ignore_errors=True)
    schema = read_schema(files[0]).remove_metadata()
    rows = pyarrow.RecordBatchReader.from_batches(schema, _read(files, schema))
    try:
        lance.write_dataset(rows, beside, mode="create")
        folder.remove_lance()
        os.replace(beside, place)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise OperationError(f"cannot write the Lance dataset {str(place)!r}: {first_line(error)}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return place


def _read(files: list[Path], schema: pyarrow.Schema) -> Iterator[Any]:
    for file in files:
        with ParquetFile(file) as shard:
            for batch in shard.iter_batches(ROWS):
                yield pyarrow.RecordBatch.from_arrays(batch.columns, schema=schema)
