"""Where images or videos and labels come from: every source gives the same records."""

from __future__ import annotations

import csv as texts
import io
import os
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from classy_vision.config import ConfigError, shown, unknown
from classy_vision.data.config import DataConfig, DigitsConfig, FolderConfig, ScenesConfig, TableConfig
from classy_vision.data.files import SUFFIXES
from classy_vision.data.images import ImageError, count_channels
from classy_vision.data.masks import SUFFIXES as MASKS
from classy_vision.data.scenes import CLASSES, Scenes, load_scans
from classy_vision.data.split import Strata, hold_out

TRAINING, VALIDATION, TEST = "training", "validation", "test"
SPLITS = {
    **dict.fromkeys(("train", "training"), TRAINING),
    **dict.fromkeys(("val", "valid", "validation"), VALIDATION),
    "test": TEST,
}
"""Names of splits, and which they are."""
A = {"image": "an image", "video": "a video"}
LOOKED_AT = 1000
"""Entries of a folder by which it is judged."""


@dataclass(frozen=True)
class Records:
    """Images or videos and what is known of them, row by row.

    Attributes:
        images: files, of images or videos, or images in memory.
        columns: cells by column; None where a label is missing.
        held_out: which rows are not trained on.
        channels: 1 where the images are grey by nature, those of arrays and of TIFF files with
            many channels, else 3.
        note: what a user should know of how they were found.
        root: where relative paths in columns start.
        classes: the names of the classes in masks, by column, where the source knows them.
    """

    images: Sequence[Path | Image.Image]
    columns: Mapping[str, Sequence[Any]]
    held_out: Sequence[bool]
    channels: int = 3
    note: str = ""
    root: str = ""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def rows(self, held_out: bool) -> list[int]:
        """The rows of one split."""
        return [row for row, held in enumerate(self.held_out) if held == held_out]

    def name(self, row: int) -> str:
        """What a message calls the row."""
        image = (self.images.names if isinstance(self.images, Files) else self.images)[row]
        return str(Path(image)) if isinstance(image, (str, Path)) else f"image {row}"

    def paths(self, column: str) -> Sequence[Any]:
        """The cells of a column of masks or maps, with relative paths joined to their root."""
        cells = []
        for row, cell in enumerate(self.columns[column]):
            if isinstance(cell, str):
                cell = os.path.join(self.root, os.path.expanduser(cell))
            elif cell is not None and not callable(cell):
                raise ConfigError(
                    f"{self.name(row)}, column {column!r}: {shown(cell)} is not the name of a file"
                )
            cells.append(cell)
        return cells


StrataOf = Callable[[Mapping[str, Sequence[Any]]], Strata]
"""What a split has to balance, of the columns of a table."""


def load_records(data: DataConfig, strata: StrataOf | None = None) -> Records:
    """The records of a source to train on and to validate with.

    Args:
        data: which, and where it lies.
        strata: what the split of a table has to balance, where it does not have one.

    Raises:
        ConfigError: something is missing, empty or malformed; the message names it.
    """
    found = _LOADERS[type(data)](data, strata, False)
    records = found.part(TRAINING, VALIDATION)
    for held_out, name in ((False, TRAINING), (True, VALIDATION)):
        if not records.rows(held_out):
            raise ConfigError(f"no {data.unit} is in the {name} split of {len(records.images)}")
    return records


def load_test_records(data: DataConfig, strata: StrataOf | None = None) -> Records:
    """The records of a source's test split, which training does not read; all of them are held out.

    Args:
        data: which, and where it lies.
        strata: as for ``load_records``, which draws the same rows with them.

    Raises:
        ConfigError: there is no test split, or something in it is missing or malformed.
    """
    records = _LOADERS[type(data)](data, strata, True).part(TEST)
    if not records.images:
        raise ConfigError(
            "the data have no test split: data.test sets one aside, by the name of a folder or of a "
            "split in the table, or as a fraction"
        )
    return records


@dataclass(frozen=True)
class _Found:
    """All rows of a source, each with its split."""

    images: Sequence[str | Path | Image.Image | Callable[[], Image.Image]]
    columns: Mapping[str, Sequence[Any]]
    splits: Sequence[str]
    channels: int = 3
    note: str = ""
    root: str = ""
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def part(self, *splits: str) -> Records:
        """The records of some splits."""
        rows = [row for row, split in enumerate(self.splits) if split in splits]
        held_out = [self.splits[row] != TRAINING for row in rows]
        columns = self.columns
        if len(rows) < len(self.splits):
            columns = Columns({name: partial(_take, columns, name, rows) for name in columns})
        images = [self.images[row] for row in rows]
        found = Records(Files(images), columns, held_out, self.channels, self.note)
        return replace(found, root=self.root, classes=self.classes)


class Files(Sequence[Any]):
    """Files, or images in memory, by row; a path or an image is made when it is asked for.

    Attributes:
        names: the files' names, images, or functions that make them.
    """

    def __init__(self, names: Sequence[Any]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return Files(self.names[row])
        name = self.names[row]
        if isinstance(name, str):
            return Path(name)
        return name() if callable(name) else name


def _take(columns: Mapping[str, Sequence[Any]], name: str, rows: Sequence[int]) -> list[Any]:
    cells = columns[name]
    return [cells[row] for row in rows]


class Columns(Mapping[str, list[Any]]):
    """Cells by column, which are read from a table where they are asked for.

    Args:
        readers: by column.
    """

    def __init__(self, readers: Mapping[str, Callable[[], list[Any]]]) -> None:
        self._readers = readers
        self._read: dict[str, list[Any]] = {}

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._read:
            self._read[name] = self._readers[name]()
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def _load_digits(data: DigitsConfig, strata: StrataOf | None, test: bool) -> _Found:
    """1,797 scanned digits: which one, and whether its outline closes a loop (0, 6, 8, 9)."""
    scans, digits, held = load_scans()
    splits = np.where(held, VALIDATION, TRAINING).tolist()
    columns = {
        "digit": [str(digit) for digit in digits],
        "loop": ["closed" if digit in (0, 6, 8, 9) else "open" for digit in digits],
    }
    return _Found([Image.fromarray(scan) for scan in scans], columns, splits, channels=1)


def _load_scenes(data: ScenesConfig, strata: StrataOf | None, test: bool) -> _Found:
    """Digits on photographs; images, masks and maps are drawn when they are asked for."""
    scenes = Scenes(data.scenes, data.scene_size, data.scene_seed)
    rows = range(data.scenes)
    digits = [[int(scenes.digits[digit.scan]) for digit in scenes.place(row)] for row in rows]
    columns: dict[str, list[Any]] = {
        "digits": [sorted({str(digit) for digit in there}) for there in digits],
        "count": [len(there) for there in digits],
        "mask": [partial(scenes.mask, row) for row in rows],
        "distance": [partial(scenes.distance, row) for row in rows],
    }
    splits = [VALIDATION if scenes.is_held_out(row) else TRAINING for row in rows]
    return _Found([partial(scenes.image, row) for row in rows], columns, splits, classes={"mask": CLASSES})


# -- files by class


def _load_folder(data: FolderConfig, strata: StrataOf | None, test: bool) -> _Found:
    """A folder per class, or with masks any files; the columns are ``label`` and ``mask``."""
    root = Path(data.root)
    if not os.path.isdir(root):
        raise ConfigError(f"data.root: no such folder: {data.root!r}")
    folders = _split_folders(root, data)
    note = ""
    if test:
        folders = {split: paths for split, paths in folders.items() if split == TEST} or folders
    elif TRAINING in folders:
        note = "; ".join(f"{path} is kept for testing" for path in folders.pop(TEST, []))
    found: list[tuple[str, Path]] = []
    splits: list[str] = []
    for split in (TRAINING, VALIDATION, TEST):
        for path in folders.get(split, []):
            part = _list_files(path, data)
            found += part
            splits += [split] * len(part)
    labels = [label for label, _ in found]
    splits = _set_aside(
        splits,
        data,
        lambda rows, part: _hold_out([labels[row] for row in rows], part, data.split_seed),
        [(label,) for label in labels],
    )
    images = [path for _, path in found]
    columns: dict[str, list[Any]] = {"label": labels} if any(labels) else {}
    if data.masks is not None:
        columns["mask"] = _find_masks(images, root, Path(data.masks), data)
    return _Found(images, columns, splits, _find_channels(images, data), note)


def _find_masks(images: Sequence[Path], root: Path, masks: Path, data: FolderConfig) -> list[str | None]:
    """The mask of each image: the file of the same name, apart from the suffix, at the same place."""
    if not masks.is_dir():
        raise ConfigError(f"data.masks: no such folder: {str(masks)!r}")
    there: dict[Path, Path] = {}
    for path in sorted(path for path in masks.rglob("*") if path.suffix.lower() in MASKS):
        other = there.setdefault(path.relative_to(masks).with_suffix(""), path)
        if other != path:
            raise ConfigError(f"data.masks: {other} and {path} would be masks of one image")
    found = [there.get(image.relative_to(root).with_suffix("")) for image in images]
    lost = [image for image, mask in zip(images, found) if mask is None]
    if lost and (data.on_bad_image == "error" or len(lost) == len(images)):
        wanted = masks / lost[0].relative_to(root).with_suffix(".png")
        raise ConfigError(
            f"{len(lost)} of {len(images)} images have no mask in data.masks, the first is {lost[0]}: "
            f"{wanted} is needed, or with one of {', '.join(MASKS[1:])}"
        )
    return [None if mask is None else str(mask) for mask in found]


def _split_folders(root: Path, data: FolderConfig) -> dict[str, list[Path]]:
    """The folders of each split; the root is that of training where there are none."""
    folders = _list_folders(root)
    found: dict[str, list[Path]] = {}
    for path in folders:
        split = TEST if path.name == data.test else SPLITS.get(path.name.lower())
        if split is not None:
            found.setdefault(split, []).append(path)
    if isinstance(data.test, str):
        if not any(path.name == data.test for path in folders):
            raise unknown("folder", data.test, [path.name for path in folders], f"data.test: {root}")
    elif VALIDATION not in found and TEST in found:
        found[VALIDATION] = found.pop(TEST)
    if not found:
        return {TRAINING: [root]}
    if TRAINING not in found or (VALIDATION not in found and data.test is None):
        there = next(iter(found.values()))[0].name
        raise ConfigError(
            f"{root} has a folder {there!r} but no other split: it needs 'train' and 'val', or "
            f"the folders of the classes and nothing else"
        )
    return found


Draw = Callable[[Sequence[int], float], Sequence[bool]]
"""Which of some rows are held out, if a fraction of them is."""


def _set_aside(
    splits: Sequence[str],
    data: FolderConfig | TableConfig,
    draw: Draw,
    values: Sequence[Collection[Hashable]],
) -> list[str]:
    """Draws from the training split what the source leaves open: a fraction to test, one to validate.

    Args:
        splits: by row, as the source says them.
        data: how much is drawn.
        draw: some of the rows that it is given.
        values: by row, what training has to see a row of; empty for nothing.
    """
    splits = list(splits)
    wanted = [(TEST, data.test)] if isinstance(data.test, float) else []
    if data.folds and VALIDATION in splits:
        raise ConfigError(
            f"data.folds = {data.folds}, but the data say themselves what is held out: leave it out"
        )
    if VALIDATION not in splits and TRAINING in splits:
        wanted.append((VALIDATION, data.val_fraction))
    for split, fraction in wanted:
        rows = [row for row, name in enumerate(splits) if name == TRAINING]
        drawn = _choose(rows, draw(rows, fraction))
        if split == VALIDATION and data.folds:
            drawn = _draw_fold(rows, draw, data.folds, data.fold)
            drawn = _leave_one_of_each(rows, drawn, values) if values else drawn
        for row in drawn:
            splits[row] = split
    return splits


def _choose(rows: Sequence[int], wanted: Sequence[bool]) -> list[int]:
    return [row for row, is_wanted in zip(rows, wanted) if is_wanted]


def _draw_fold(rows: Sequence[int], draw: Draw, folds: int, fold: int) -> list[int]:
    """The rows of a fold; each of ``rows`` is in one of them."""
    taken: list[int] = []
    for k in range(fold + 1):
        before = set(taken)
        rows = [row for row in rows if row not in before]
        taken = _choose(rows, draw(rows, 1 / (folds - k))) if k < folds - 1 else list(rows)
    return taken


def _leave_one_of_each(
    rows: Sequence[int], drawn: Sequence[int], values: Sequence[Collection[Hashable]]
) -> list[int]:
    """The rows that are drawn, but for those that would take the last row of a value out of training."""
    kept, left = list[int](), Counter(value for row in set(rows) - set(drawn) for value in values[row])
    for row in drawn:
        if all(left[value] for value in values[row]):
            kept.append(row)
        else:
            left.update(values[row])
    return kept


def _find_channels(images: Sequence[str | Path], data: DataConfig) -> int:
    """Counts the channels of the first image, where it is not simply in grey or in colour."""
    if data.clip or not images:
        return 3
    try:
        return count_channels(Path(images[0])) or 3
    except ImageError:  # Whoever reads it raises.
        return 3


def _list_folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _list_files(root: Path, data: FolderConfig) -> list[tuple[str, Path]]:
    """Files with the names of their classes; with masks, and files beside the folders, there are no classes."""
    found: list[tuple[str, Path]] = []
    masks = Path(data.masks) if data.masks is not None else None
    folders = [folder for folder in _list_folders(root) if folder != masks]
    known = frozenset().union(*SUFFIXES.values())
    if masks is not None:
        inside = (path for path in root.rglob("*") if path.suffix.lower() in known and path.is_file())
        files = sorted(path for path in inside if masks not in path.parents)
        if any(path.parent == root for path in files):
            _check_kind(files, data)
            return [("", path) for path in files]
    _check_level(root, folders)
    for folder in folders:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in known and p.is_file())
        if not paths:
            raise ConfigError(f"{folder} is the folder of a class, but there is no {data.unit} in it")
        _check_kind(paths, data)
        found += [(folder.name, path) for path in paths]
    if not folders:
        raise ConfigError(f"{root} has no folders in it; each class needs one, named after it")
    return found


def _check_level(root: Path, folders: Sequence[Path]) -> None:
    """Raises where ``root`` looks like the folder above the one that was meant."""
    inner: list[set[str]] = []
    for folder in folders:
        with os.scandir(folder) as entries:
            seen = [e for e in islice(entries, LOOKED_AT) if not e.name.startswith(".")]
        names = {entry.name for entry in seen if entry.is_dir()}
        splits = sorted(name for name in names if name.lower() in SPLITS)
        if any(SPLITS[name.lower()] == TRAINING for name in splits):
            raise ConfigError(
                f"{folder} has folders of splits in it ({', '.join(splits)}), but it would be the folder "
                f"of a class: data.root is probably {str(folder)!r}"
            )
        inner.append(names if len(names) == len(seen) else set())
    if inner and all(inner) and (len(inner) == 1 or set.intersection(*inner)):
        levels = ", ".join(folder.name for folder in folders[:4])
        classes = ", ".join(sorted(inner[0])[:4])
        raise ConfigError(
            f"{root}: its folders ({levels}) would be the classes, but there are only folders in them "
            f"({classes}). If those are the classes, data.root is probably {str(folders[0])!r}"
        )


def _check_kind(paths: Iterable[str | Path], data: DataConfig) -> None:
    """Raises where images are among videos, or the other way round; suffixes decide."""
    others = {"video": "image", "image": "video"}[data.unit]
    suffixes = tuple(SUFFIXES[others])
    wrong = next((path for path in paths if str(path).lower().endswith(suffixes)), None)
    if wrong is not None:
        mend = {
            "video": "leave data.clip out to train on images",
            "image": "set data.clip, such as {frames: 16}, to train on videos",
        }
        raise ConfigError(
            f"{wrong} is not {A[data.unit]}, and a run is of {data.unit}s or {others}s: {mend[data.unit]}"
        )


def _hold_out(labels: Sequence[Any], fraction: float, seed: int) -> list[bool]:
    """Holds out ``fraction`` of the rows of each label, at least one of two."""
    held = [False] * len(labels)
    rows_of: dict[Any, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    for rows in rows_of.values():
        count = min(len(rows) - 1, max(1, round(len(rows) * fraction)))
        for row in Random(seed).sample(rows, count):
            held[row] = True
    return held


def write_listing(records: Records, data: FolderConfig) -> bytes:
    """The files of a folder and their splits as a table, for ``read_listing``."""
    table = io.StringIO(newline="")
    columns = records.columns
    rows = [
        [os.path.relpath(records.name(row), data.root), *cells, "val" if held else "train"]
        for row, (*cells, held) in enumerate(zip(*columns.values(), records.held_out))
    ]
    texts.writer(table).writerows([["path", *columns, "split"], *rows])
    return table.getvalue().encode(errors="surrogateescape")


def read_listing(path: Path, data: FolderConfig) -> Records:
    """The records of a folder as they were when the listing was written, whatever is there now.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(texts.DictReader(file))
        images = [Path(data.root, row["path"]) for row in rows]
        held_out = [row["split"] == "val" for row in rows]
        names = [name for name in ("label", "mask") if rows and name in rows[0]]
        columns = {name: [row[name] or None for row in rows] for name in names}
    except (OSError, texts.Error, KeyError) as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}") from None
    there = [image for image in images if image.is_file()]
    return Records(images, columns, held_out, _find_channels(there, data))


# -- a table


def _load_table(data: TableConfig, strata: StrataOf | None, test: bool) -> _Found:
    """A row per image or video."""
    path = Path(data.file)
    if not os.path.isfile(path):
        raise ConfigError(f"data.file: no such file: {data.file!r}")
    from classy_vision.data.tables import read_columns  # pyarrow takes a fifth of a second

    columns = read_columns(path, data)
    images = _join_paths(columns.pop("path")(), data)  # as text: a million of Path takes ten seconds
    split = columns.pop("split", None)
    if split is None and isinstance(data.test, str):
        raise ConfigError(f"data.test = {data.test!r}: {path} has no column 'split' with that value")
    splits = _read_splits(split(), data) if split else [TRAINING] * len(images)
    if split is None or data.test is not None or data.folds:
        balanced = strata(Columns(columns)) if data.stratify and strata else None
        names = [{one for one in row if isinstance(one.value, str)} for row in balanced or ()]  # not numbers
        splits = _set_aside(splits, data, _draw(data, balanced), names)
    rows = [row for row, name in enumerate(splits) if (name == TEST) == test]
    wanted = [images[row] for row in rows]
    _check_exist(wanted, path, data)
    _check_kind(wanted, data)
    found = _Found(images, Columns(columns), splits, _find_channels(wanted, data))
    return replace(found, root=data.masks or data.images or os.path.dirname(data.file))


def _draw(data: TableConfig, balanced: Strata | None) -> Draw:
    """Rows by chance, or the same part of each stratum."""
    if balanced is None:
        return lambda rows, fraction: _hold_out([0] * len(rows), fraction, data.split_seed)
    return lambda rows, fraction: hold_out([balanced[row] for row in rows], fraction, data.split_seed)


def _join_paths(cells: Sequence[Any], data: TableConfig) -> list[str]:
    root = data.images or os.path.dirname(data.file)
    for row, cell in enumerate(cells, 1):
        if not isinstance(cell, str):
            raise ConfigError(f"{data.file}, row {row}: there is no path")
    return [os.path.join(root, cell) for cell in cells]


def _check_exist(images: Sequence[str], table: Path, data: DataConfig) -> None:
    """Raises where files are missing; those that may be skipped, only where all are."""
    missing = [image for image in images if not os.path.isfile(image)]
    if missing and (data.on_bad_image == "error" or len(missing) == len(images)):
        raise ConfigError(
            f"{table} names {len(missing)} of {len(images)} {data.unit}s that do not exist, the first is "
            f"{shown(missing[0])}; data.images says where relative paths start"
        )


def _read_splits(cells: Sequence[Any], data: TableConfig) -> list[str]:
    splits = []
    for row, cell in enumerate(cells, 1):
        split = TEST if cell is not None and cell == data.test else SPLITS.get(str(cell).lower())
        if split is None:
            raise unknown("split", cell, SPLITS, f"{data.file}, row {row}")
        splits.append(split)
    if isinstance(data.test, str):
        if TEST not in splits or (data.test not in cells and data.test.lower() not in SPLITS):
            raise unknown("split", data.test, dict.fromkeys(map(str, cells)), f"data.test: {data.file}")
    elif VALIDATION not in splits:
        return [VALIDATION if split == TEST else split for split in splits]
    return splits


_LOADERS: dict[type[DataConfig], Callable[[Any, StrataOf | None, bool], _Found]] = {
    DigitsConfig: _load_digits,
    ScenesConfig: _load_scenes,
    FolderConfig: _load_folder,
    TableConfig: _load_table,
}
