"""Where images or videos and labels come from: every source gives the same records."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from classy_vision.config import ConfigError, unknown
from classy_vision.train.data_config import DataConfig, DigitsConfig, FolderConfig, TableConfig

SPLITS = {
    **dict.fromkeys(("train", "training"), False),
    **dict.fromkeys(("val", "valid", "validation", "test"), True),
}
"""Names of splits, and whether they are held out."""
IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEOS = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
SUFFIXES: dict[str, frozenset[str]] = {"image": frozenset(IMAGES), "video": frozenset(VIDEOS)}


@dataclass(frozen=True)
class Records:
    """Images or videos and what is known of them, row by row.

    Attributes:
        images: files, of images or videos, or images in memory.
        columns: cells by column; None where a label is missing.
        held_out: which rows are not trained on.
        channels: 1 where the images are grey by nature, else 3.
        note: what a user should know of how they were found.
    """

    images: Sequence[Path | Image.Image]
    columns: Mapping[str, Sequence[Any]]
    held_out: Sequence[bool]
    channels: int = 3
    note: str = ""

    def rows(self, held_out: bool) -> list[int]:
        """The rows of one split."""
        return [row for row, held in enumerate(self.held_out) if held == held_out]

    def name(self, row: int) -> str:
        """What a message calls the row."""
        image = self.images[row]
        return str(image) if isinstance(image, Path) else f"image {row}"


def load_records(data: DataConfig, seed: int) -> Records:
    """The records of a source.

    Args:
        data: which, and where it lies.
        seed: of the split, where the source does not have one.

    Raises:
        ConfigError: something is missing, empty or malformed; the message names it.
    """
    records = _LOADERS[type(data)](data, seed)
    for held_out, name in ((False, "training"), (True, "validation")):
        if not records.rows(held_out):
            raise ConfigError(f"no {data.unit} is in the {name} split of {len(records.images)}")
    return records


def load_digits_records(data: DigitsConfig, seed: int) -> Records:
    """1,797 scanned digits: which one, and whether its outline closes a loop (0, 6, 8, 9)."""
    # Two seconds of imports that nothing else needs.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    scans = np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    held = train_test_split(range(len(digits)), test_size=0.2, stratify=digits, random_state=0)[1]
    held_out = np.isin(np.arange(len(digits)), held).tolist()
    columns = {
        "digit": [str(digit) for digit in digits],
        "loop": ["closed" if digit in (0, 6, 8, 9) else "open" for digit in digits],
    }
    return Records([Image.fromarray(scan) for scan in scans], columns, held_out, channels=1)


# -- files by class


def load_folder_records(data: FolderConfig, seed: int) -> Records:
    """A folder per class; the column is ``label``."""
    root = Path(data.root)
    if not root.is_dir():
        raise ConfigError(f"data.root: no such folder: {data.root!r}")
    splits = {path.name.lower(): path for path in _folders(root) if path.name.lower() in SPLITS}
    note = ""
    if "test" in splits and len({SPLITS[name] for name in splits.keys() - {"test"}}) == 2:
        note = f"{splits.pop('test')} is left out: another folder is held out"
    if not splits:
        found = _files_by_class(root, data)
        held = _hold_out([label for label, _ in found], data.val_fraction, seed)
    elif len({SPLITS[name] for name in splits}) == 2:
        found, held = [], []
        for name in sorted(splits, key=SPLITS.__getitem__):
            part = _files_by_class(splits[name], data)
            found += part
            held += [SPLITS[name]] * len(part)
    else:
        there = next(iter(splits.values())).name
        raise ConfigError(
            f"{root} has a folder {there!r} but no other split: it needs 'train' and 'val', or "
            f"the folders of the classes and nothing else"
        )
    return Records([path for _, path in found], {"label": [label for label, _ in found]}, held, note=note)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files_by_class(root: Path, data: DataConfig) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    folders = _folders(root)
    known = frozenset().union(*SUFFIXES.values())
    for folder in folders:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in known and p.is_file())
        if not paths:
            raise ConfigError(f"{folder} is the folder of a class, but there is no {data.unit} in it")
        _check_kind(paths, data)
        found += [(folder.name, path) for path in paths]
    if not folders:
        raise ConfigError(f"{root} has no folders in it; each class needs one, named after it")
    return found


def _check_kind(paths: Iterable[Path], data: DataConfig) -> None:
    """Raises where images are among videos, or the other way round; suffixes decide."""
    others = {"video": "image", "image": "video"}[data.unit]
    wrong = next((path for path in paths if path.suffix.lower() in SUFFIXES[others]), None)
    if wrong is not None:
        mend = {
            "video": "leave data.clip out to train on images",
            "image": "set data.clip, such as {frames: 16}, to train on videos",
        }
        raise ConfigError(
            f"{wrong} is no {data.unit}, and a run is of {data.unit}s or {others}s: {mend[data.unit]}"
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


# -- a table


def load_table_records(data: TableConfig, seed: int) -> Records:
    """A row per image or video."""
    path = Path(data.file)
    if not path.is_file():
        raise ConfigError(f"data.file: no such file: {data.file!r}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"data.file: {data.file!r} is of no known format ({', '.join(_READERS)})")
    try:
        columns = reader(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"data.file: cannot read {data.file!r}: {error}") from None
    if "path" not in columns:
        raise unknown("column", "path", columns, f"{path} needs a column 'path'")
    root = Path(data.images) if data.images else path.parent
    paths = columns.pop("path")
    for row, cell in enumerate(paths, 1):
        if not isinstance(cell, str):
            raise ConfigError(f"{path}, row {row}: there is no path")
    images = [root / cell for cell in paths]
    _check_exist(images, path, data.unit)
    _check_kind(images, data)
    split = columns.pop("split", None)
    held = _read_split(split, path) if split else _hold_out([0] * len(images), data.val_fraction, seed)
    return Records(images, columns, held)


def _check_exist(images: Sequence[Path], table: Path, unit: str) -> None:
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise ConfigError(
            f"{table} names {len(missing)} of {len(images)} {unit}s that do not exist, the first is "
            f"{str(missing[0])!r}; data.images says where relative paths start"
        )


def _read_split(cells: Iterable[Any], table: Path) -> list[bool]:
    held = []
    for row, cell in enumerate(cells, 1):
        if str(cell).lower() not in SPLITS:
            raise unknown("split", cell, SPLITS, f"{table}, row {row}")
        held.append(SPLITS[str(cell).lower()])
    return held


def _read_csv(path: Path) -> dict[str, list[Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    for number, row in enumerate(rows, 2):
        if row and len(row) != len(header):
            raise ConfigError(f"{path}, line {number}: {len(row)} cells under {len(header)} headings")
    rows = [row for row in rows if row]
    _check_names([name.strip() for name in header], path)
    return {name.strip(): [row[i].strip() or None for row in rows] for i, name in enumerate(header)}


def _read_parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow.parquet  # a tenth of a second, which only tables need

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise OSError(error) from None
    _check_names(table.column_names, path)
    columns: dict[str, list[Any]] = table.to_pydict()
    return {name: [None if cell != cell else cell for cell in cells] for name, cells in columns.items()}


def _check_names(names: Sequence[str], path: Path) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: two columns are called {twice!r}")


_READERS: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
_LOADERS: dict[type[DataConfig], Callable[[Any, int], Records]] = {
    DigitsConfig: load_digits_records,
    FolderConfig: load_folder_records,
    TableConfig: load_table_records,
}
