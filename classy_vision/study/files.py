"""Reading and writing a comparison as a CSV, Parquet or JSON file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from classy_vision.atomic import replacing
from classy_vision.config import MAX_SHOWN, ConfigError, first_line, system_error
from classy_vision.study.row import Row, list_values
from classy_vision.text import dump

TABLES = (".csv", ".parquet", ".json")
READABLE = (".csv", ".parquet")
NUMBERS = ("params", "macs", "activations", "memory", "latency", "throughput")


def write_table(path: Path, rows: Sequence[Row], front: Sequence[Row]) -> None:
    """Writes all rows in full to a CSV, Parquet or JSON file.

    Raises:
        ConfigError: the file cannot be written.
    """
    entries = list_values(rows, front)
    with replacing(path) as beside:
        if path.suffix == ".parquet":
            _write_parquet(beside, entries)
        else:
            text = dump(entries, entries, path.suffix[1:])
            beside.write_text(f"{text}\n", encoding="utf-8")


def _write_parquet(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    shapes, texts = pa.list_(pa.int64()), ("name", "group", "failure")
    kinds = {"input_shape": shapes, "front": pa.bool_(), **{name: pa.string() for name in texts}}
    schema = pa.schema([(key, kinds.get(key, pa.float64())) for key in entries[0]])
    parquet.write_table(pa.Table.from_pylist([dict(entry) for entry in entries], schema), path)


def read_table(path: Path) -> list[Row]:
    """Reads the rows of a CSV or Parquet file that ``write_table`` wrote.

    Raises:
        ConfigError: it cannot be read, or is not such a table.
    """
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            entries = parquet.read_table(path).to_pylist()
        else:
            entries = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        if not entries:
            raise ValueError("it has no rows")
        return [_row(entry) for entry in entries]
    except OSError as error:
        raise system_error(error, f"cannot read {str(path)!r}") from None
    except Exception as error:  # readers of damaged files raise anything
        reason = f"it has no column {error}" if isinstance(error, KeyError) else first_line(error)[:MAX_SHOWN]
        raise ConfigError(f"{str(path)!r} is not the table of a comparison: {reason}") from None


def _row(entry: Mapping[str, Any]) -> Row:
    shape = entry["input_shape"] or ()
    shape = shape.split("x") if isinstance(shape, str) else shape
    heads = {key.partition("/")[2] or key: key for key in entry if key.partition("/")[0] == "accuracy"}
    known = {head: float(entry[key]) for head, key in heads.items() if entry[key] not in (None, "")}
    numbers = {name: float(entry[name]) if entry[name] not in (None, "") else None for name in NUMBERS}
    return Row(
        entry["name"],
        entry["group"] or "",
        tuple(map(int, shape)),
        accuracies=known,
        failure=entry["failure"] or None,
        **numbers,
    )
