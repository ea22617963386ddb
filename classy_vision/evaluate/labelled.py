"""Images or videos with labels to evaluate a model on: of its own run, of a folder or of a table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, tensor

from classy_vision.config import ConfigError, unknown
from classy_vision.data.config import DataConfig, TableConfig
from classy_vision.data.files import TABLES, walk
from classy_vision.data.masks import PixelLabels
from classy_vision.data.sources import (
    SPLITS,
    TEST,
    TRAINING,
    VALIDATION,
    Records,
    load_records,
    load_test_records,
)
from classy_vision.data.tables import read_headings
from classy_vision.predict.inputs import Input
from classy_vision.run_files import RUN_CONFIG
from classy_vision.text import list_some
from classy_vision.train.job import prepare, test_records
from classy_vision.train.run_folder import RunFolder
from classy_vision.train.tasks import DenseTask, Task

PARTS = {"train": TRAINING, "validation": VALIDATION, "test": TEST}
"""What ``split`` may be, and which split of the data that is."""
LABEL = "label"
"""The column of the names of folders."""


@dataclass(frozen=True)
class Labelled:
    """Inputs and their labels.

    Attributes:
        name: where they are from.
        split: "train", "validation", "test", or "all" where the data are not split.
        inputs: images or videos.
        targets: by head, a row per input; of heads with an answer for each pixel, whether there are labels.
        dense: the labels of pixels of those heads.
    """

    name: str
    split: str
    inputs: Sequence[Input]
    targets: Mapping[str, Tensor]
    dense: Mapping[str, PixelLabels] = field(default_factory=dict)


@dataclass(frozen=True)
class _Rows:
    """Inputs and their cells by column, not yet assigned to heads.

    Attributes:
        split: as in ``Labelled``.
        inputs: images or videos.
        columns: cells by column.
        paths: the cells of a column of files, with relative paths joined to their root.
    """

    split: str
    inputs: Sequence[Input]
    columns: Mapping[str, Sequence[Any]]
    paths: Callable[[str], Sequence[Any]]


def find_labelled(
    tasks: Mapping[str, Task],
    seen: DataConfig,
    *,
    run: str | Path | None = None,
    data: str | Path | None = None,
    split: str | None = None,
    targets: Mapping[str, str] | None = None,
) -> Labelled:
    """Finds what a model is evaluated on.

    Args:
        tasks: by head.
        seen: what the model sees of a file.
        run: the model's run folder, whose data are used unless others are given.
        data: a folder with one folder per class, or with such folders in "train", "val" and "test"; or a
            CSV or Parquet table as for training.
        split: "train", "validation" or "test"; by default "validation", and all of the data where they are
            not split.
        targets: columns by head, if their names differ from those in training.

    Raises:
        ConfigError: there are no such data, a head has no labels there, or a label that it does not know.
    """
    if split is not None and split not in PARTS:
        raise unknown("split", split, PARTS)
    path = None if data is None else os.path.expanduser(data)
    if path is None:
        rows = _find_in_run(run, split)
    elif os.path.isdir(path):
        rows = _find_in_folder(Path(path), seen, split)
    elif Path(path).suffix.lower() in TABLES:
        rows = _find_in_table(Path(path), seen, split)
    else:
        there = (
            f"is neither a folder nor a table ({', '.join(TABLES)})"
            if os.path.exists(path)
            else "does not exist"
        )
        raise ConfigError(f"DATA = {str(data)!r} {there}")
    name = str(run if data is None else data)
    found, dense = {}, {}
    for head, task in tasks.items():
        column = _find_column(task, tasks, rows.columns, targets or {}, name)
        if isinstance(task, DenseTask):
            dense[head] = task.open(rows.paths(column))
            found[head] = tensor([task.encode(cell) for cell in rows.columns[column]])
        else:
            found[head] = _encode(task, column, rows, name)
    return Labelled(name, rows.split, rows.inputs, found, dense)


# -- the rows


def _find_in_run(run: str | Path | None, split: str | None) -> _Rows:
    if run is None or not (Path(run) / RUN_CONFIG).is_file():
        raise ConfigError("give DATA, a folder or a table: only a run folder knows its own data")
    folder = RunFolder(Path(run))
    settings = folder.settings()
    if split == "test":
        return _take_rows(test_records(settings), split)
    # The same checks and the same split as in training, whatever its device and initial weights.
    alone = settings.without_training().model_copy(update={"weights": None})
    job = prepare(alone, folder.read_listing(settings))
    if folder.read_fingerprint() not in (None, job.fingerprint()):
        raise ConfigError(
            f"the {settings.data.unit}s or labels of {str(run)!r} have changed since it was trained, so that "
            f"it is not known which were held out: give DATA, a folder or a table"
        )
    return _take_rows(job.records, split or "validation")


def _take_rows(records: Records, split: str) -> _Rows:
    rows = list(range(len(records.images)))
    if split in ("train", "validation"):
        rows = records.rows(held_out=split == "validation")
    inputs = [Input(records.name(row), records.images[row]) for row in rows]

    def paths(column: str) -> list[Any]:
        cells = records.paths(column)
        return [cells[row] for row in rows]

    columns = {n: [cells[row] for row in rows] for n, cells in records.columns.items()}
    return _Rows(split, inputs, columns, paths)


def _find_in_folder(root: Path, seen: DataConfig, split: str | None) -> _Rows:
    """The class of an image is the name of its folder."""
    there = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    of_split = {SPLITS[name]: path for name, path in there.items() if name in SPLITS}
    parts = {part: of_split[name] for part, name in PARTS.items() if name in of_split}
    if split and split not in parts:
        raise ConfigError(f"{root} has no folder for --split {split}: it has {list_some(there)}")
    if parts:
        split = split or next(part for part in ("validation", "test", "train") if part in parts)
        root = parts[split]
    classes = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise ConfigError(f"{root} has no folders in it; each class needs one, named after it")
    found = [(folder.name, file) for folder in classes for file in walk(folder, seen.unit)]
    inputs = [Input(file, Path(file)) for _, file in found]
    columns = {LABEL: [name for name, _ in found]}
    return _Rows(split or "all", inputs, columns, columns.__getitem__)


def _find_in_table(file: Path, seen: DataConfig, split: str | None) -> _Rows:
    if not file.is_file():
        raise ConfigError(f"DATA: no such file: {str(file)!r}")
    has_splits = "split" in read_headings(file)
    if split and not has_splits:
        raise ConfigError(f"{file} has no column 'split', so --split {split} has no meaning: leave it out")
    # A file that is not there stands with its error among the predictions.
    data = TableConfig(
        source="table",
        file=str(file),
        clip=seen.clip,
        missing=seen.missing if isinstance(seen, TableConfig) else None,
        on_bad_image="skip",
    )
    part = (split or "validation") if has_splits else "all"
    return _take_rows(load_test_records(data) if part == "test" else load_records(data), part)


# -- their labels


def _find_column(
    task: Task,
    tasks: Mapping[str, Task],
    columns: Mapping[str, Sequence[Any]],
    targets: Mapping[str, str],
    where: str,
) -> str:
    """The column of a head's labels."""
    given = targets.get(task.name)
    if given is not None and given not in columns:
        raise unknown("column", given, columns, f"{where}: --target {task.name}={given}")
    only = next(iter(columns)) if len(columns) == len(tasks) == 1 else None
    for name in (given, task.config.target, task.name, only):
        if name is not None and name in columns:
            return name
    raise ConfigError(
        f"{where} has no labels for head {task.name!r}: its columns are {list_some(columns)}. Name one by "
        f"--target {task.name}=COLUMN, or evaluate other heads alone by --head"
    )


def _encode(task: Task, column: str, rows: _Rows, where: str) -> Tensor:
    encoded = []
    for one, cell in zip(rows.inputs, rows.columns[column]):
        try:
            encoded.append(task.encode(cell))
        except ConfigError as error:
            hint = "; the model knows only the classes it was trained on" if task.has_classes else ""
            raise ConfigError(f"{one.name}, column {column!r}, head {task.name!r}: {error}{hint}") from None
    found = tensor(encoded)
    if not len(found) or not task.valid(found).any():
        raise ConfigError(f"{where}: column {column!r} has no label for head {task.name!r}")
    return found
