"""Labels of pixels: masks of classes and maps of numbers, read from files and seen like their image.

Axes: h height, w width.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.data.config import DataConfig
from classy_vision.data.images import NUMPY, ImageError, read_pixels, read_size
from classy_vision.data.preprocessing import View
from classy_vision.text import list_some

Array = np.ndarray[Any, Any]
Cell = str | Path | Callable[[], Array] | None
"""A file, a function that makes the labels, or None where there are none."""
SUFFIXES = (".png", ".tif", ".tiff", NUMPY, ".bmp", ".pgm")
"""Of files of labels: what is lossy cannot hold them."""
SIZES, READ = 1000, 8
"""Images whose sizes are compared with those of their labels before a run, and labels that are read."""


class PixelLabels(ABC):
    """The labels of pixels of one head, row by row.

    Args:
        cells: one per row.
    """

    what = "mask"
    """What messages call the labels of an image."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = cells

    def read(self, row: int, image: Path | Image.Image, size: tuple[int, int]) -> Array | None:
        """The labels (h, w) of a whole image; None where there are none.

        Args:
            row: of the records.
            image: whose labels these are.
            size: its width and height, upright.

        Raises:
            ImageError: they cannot be read, or are not of such an image.
        """
        cell = self.cells[row]
        if cell is None:
            return None
        try:
            labels = cell() if callable(cell) else self._read_file(Path(cell))
            _check_shape(labels.shape, size, self.what)
            return self.convert(labels)
        except ImageError as error:
            reason = error.reason
        except ValueError as error:
            reason = str(error)
        where = Path(cell) if isinstance(cell, (str, Path)) else Path(self.what)
        raise ImageError(where, f"{reason}. It is the {self.what} of {name_image(image, row)}") from None

    def _read_file(self, path: Path) -> Array:
        if path.suffix.lower() not in SUFFIXES:
            raise ImageError(path, f"a {self.what} is in a file without losses: {', '.join(SUFFIXES)}")
        return read_pixels(path)

    @abstractmethod
    def convert(self, labels: Array) -> Array:
        """Labels (h, w) of a file as they are learned.

        Raises:
            ValueError: they mean nothing.
        """

    @abstractmethod
    def see(self, labels: Array, view: View) -> Array:
        """The labels (side, side) of a view of the image."""

    @abstractmethod
    def make_blank(self, side: int) -> Array:
        """Labels (side, side) of an image that has none."""

    @abstractmethod
    def known(self, labels: Array) -> Array:
        """Which pixels have a label: bool, in the shape of ``labels``."""


class ClassMasks(PixelLabels):
    """Masks whose pixels are numbers of classes.

    Args:
        cells: one per row: an indexed or grey image, or None.
        classes: their names in order.
        ignore_index: of pixels without a label; it also stands for all pixels of a missing mask.
    """

    def __init__(self, cells: Sequence[Cell], classes: Sequence[str], ignore_index: int) -> None:
        super().__init__(cells)
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        small = max(len(classes) - 1, ignore_index) < 256
        self._type: type[np.generic] = np.uint8 if small else np.int32

    def convert(self, labels: Array) -> Array:
        if labels.dtype.kind not in "bui":
            raise ValueError(f"pixels of type {labels.dtype}, where whole numbers of classes are needed")
        count = len(self.classes)
        wrong = (labels != self.ignore_index) & ((labels >= count) | (labels < 0))
        if wrong.any():
            y, x = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"the pixel at x = {x}, y = {y} has class {labels[y, x]}, but there are {count} classes, 0 to "
                f"{count - 1}: {list_some(self.classes)}; ignore_index = {self.ignore_index} has no class"
            )
        return labels.astype(self._type)

    def see(self, labels: Array, view: View) -> Array:
        return np.array(replace(view, resample=Image.Resampling.NEAREST).of_plane(labels, self.ignore_index))

    def make_blank(self, side: int) -> Array:
        return np.full((side, side), self.ignore_index, self._type)

    def known(self, labels: Array) -> Array:
        return np.asarray(labels != self.ignore_index)


class NumberMaps(PixelLabels):
    """Maps of numbers, in float32; NaN where there is none.

    Args:
        cells: one per row: an image of 8 or 16 bits or of numbers, an array, or None.
        missing: the number in files that stands for none, beside NaN and infinity.
        scale: what a number in a file is multiplied by.
        positive: whether others mean nothing.
    """

    what = "map"

    def __init__(
        self, cells: Sequence[Cell], missing: float | None = None, scale: float = 1.0, positive: bool = False
    ) -> None:
        super().__init__(cells)
        self.missing = missing
        self.scale = scale
        self.positive = positive

    def convert(self, labels: Array) -> Array:
        if labels.dtype.kind not in "buif":
            raise ValueError(f"pixels of type {labels.dtype}, which are not numbers")
        numbers = labels.astype(np.float32)
        there = np.isfinite(numbers)
        if self.missing is not None:
            there &= labels != self.missing
        if self.positive and (wrong := there & (numbers <= 0)).any():
            y, x = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"the pixel at x = {x}, y = {y} has {labels[y, x]}, but loss: scale_invariant is for positive "
                f"numbers; if it stands for none, set missing to it"
            )
        return np.where(there, numbers * np.float32(self.scale), np.float32(np.nan))

    def see(self, labels: Array, view: View) -> Array:
        """Averages the numbers that are there; a pixel of which less than half is known has none."""
        view = replace(view, resample=Image.Resampling.BILINEAR)
        known = self.known(labels)
        parts = view.of_plane(known.astype(np.float32))
        sums = view.of_plane(np.where(known, labels, np.float32(0)))
        there = parts >= 0.5
        return np.where(there, sums / np.where(there, parts, 1), np.float32(np.nan))

    def make_blank(self, side: int) -> Array:
        return np.full((side, side), np.nan, np.float32)

    def known(self, labels: Array) -> Array:
        return np.asarray(~np.isnan(labels))


def make_palette(count: int = 256) -> Array:
    """The colours of classes in masks, (count, 3) of uint8: those of PASCAL VOC, in which class 0 is black."""
    codes = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((codes >> (3 * bit + channel)) & 1).astype(np.uint8) << (7 - bit)
    return colours


def name_image(image: Path | Image.Image, row: int) -> str:
    """What a message calls an image."""
    return str(image) if isinstance(image, Path) else f"image {row}"


def _check_shape(shape: Sequence[int], size: tuple[int, int], what: str) -> None:
    if len(shape) != 2:
        raise ValueError(
            f"{shape[2]} channels, where a {what} has one: a grey image, or for classes an indexed one"
        )
    if (shape[1], shape[0]) != tuple(size):
        raise ValueError(f"{shape[1]}x{shape[0]} pixels, but the image has {size[0]}x{size[1]}")


# -- before a run


def check_labels(
    head: str, labels: PixelLabels, images: Sequence[Any], splits: Mapping[str, Sequence[int]], data: DataConfig
) -> None:
    """Looks at the labels of pixels before any work is done: all files, some sizes, and a few pixels.

    Args:
        head: for messages.
        labels: its labels.
        images: by row.
        splits: rows by the name of their split.
        data: whether a row that cannot be read is an error.

    Raises:
        ConfigError: files are missing, labels are not of their image, or no pixel of a split has one.
    """
    strict = data.on_bad_image == "error"
    _check_exist(head, labels, images, splits, strict)
    for split, rows in splits.items():
        there = [row for row in rows if labels.cells[row] is not None]
        for row in there[:: max(1, len(there) // SIZES)]:
            if strict and isinstance(cell := labels.cells[row], (str, Path)):
                _compare_sizes(labels, Path(cell), images[row], row)
        _check_pixels(head, labels, images, there, split, strict)


def _check_exist(
    head: str, labels: PixelLabels, images: Sequence[Any], splits: Mapping[str, Sequence[int]], strict: bool
) -> None:
    cells = {row: labels.cells[row] for rows in splits.values() for row in rows}
    files = {row: cell for row, cell in cells.items() if isinstance(cell, (str, Path))}
    lost = [row for row, cell in files.items() if not os.path.isfile(cell)]
    if lost and (strict or len(lost) == len(files)):
        raise ConfigError(
            f"tasks.{head}: {len(lost)} of {len(files)} {labels.what}s do not exist, the first is "
            f"{str(files[lost[0]])!r}, the {labels.what} of {name_image(images[lost[0]], lost[0])}"
        )


def _compare_sizes(labels: PixelLabels, cell: Path, image: Any, row: int) -> None:
    try:
        size = image.size if isinstance(image, Image.Image) else read_size(image)
        found = read_size(cell)
    except ImageError:
        return  # whoever reads it raises
    if found != size:
        raise ConfigError(
            f"{cell}: {found[0]}x{found[1]} pixels, but the image has {size[0]}x{size[1]}. It is the "
            f"{labels.what} of {name_image(image, row)}"
        )


def _check_pixels(
    head: str, labels: PixelLabels, images: Sequence[Any], rows: Sequence[int], split: str, strict: bool
) -> None:
    """Reads a few labels, and goes on until one has a pixel that counts."""
    first = rows[:: max(1, len(rows) // READ)][:READ]
    seen = False
    for place, row in enumerate([*first, *(row for row in rows if row not in first)]):
        if seen and place >= len(first):
            return
        try:
            image = images[row]
            size = image.size if isinstance(image, Image.Image) else read_size(image)
            found = labels.read(row, image, size)
        except ImageError:
            if strict:
                raise
            continue
        seen = seen or bool(found is not None and labels.known(found).any())
    if not seen:
        hint = f"ignore_index = {labels.ignore_index}" if isinstance(labels, ClassMasks) else "missing"
        raise ConfigError(
            f"tasks.{head}: no pixel of the {len(rows)} {labels.what}s of the {split} split has a label: "
            f"all of them are {hint}"
        )
