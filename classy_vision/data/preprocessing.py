"""From an image to the tensor that the model sees: which part, which size, which scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from classy_vision.config import ConfigError
from classy_vision.data.augmentation import Change, Matrix, draw_changes, draw_hole, draw_matrix, transform
from classy_vision.data.config import DataConfig
from classy_vision.data.images import MODES, Picture, Planes, Readable, open_image

if TYPE_CHECKING:
    from classy_vision.weights.catalogue import Preprocessing as Published

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""

# channels: mean, std
STATISTICS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    1: ((0.5,), (0.5,)),
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
CLIP_STATISTICS = {**STATISTICS, 3: ((0.45,) * 3, (0.225,) * 3)}


def with_statistics(data: DataConfig, channels: int) -> DataConfig:
    """``data`` with a mean and std for ``channels``.

    Raises:
        ConfigError: videos do not have that many channels, or the given ones do not fit.
    """
    if data.clip and channels not in MODES:
        raise ConfigError(f"model.in_channels = {channels}: videos have 1 channel (grey) or 3 (colour)")
    usual = ((0.5,) * channels, (0.5,) * channels)
    mean, std = (CLIP_STATISTICS if data.clip else STATISTICS).get(channels, usual)
    data = data.model_copy(update={"mean": data.mean or mean, "std": data.std or std})
    for name in ("mean", "std"):
        if len(getattr(data, name)) != channels:
            raise ConfigError(
                f"data.{name} = {list(getattr(data, name))}: one value for each of the model's "
                f"{channels} channels is needed"
            )
    return data


def from_published(seen: Published, data: DataConfig) -> dict[str, Any]:
    """What published weights expect of ``data``, for what the config leaves open.

    Where the config has a size of its own, the part of the image that is seen remains theirs. Images
    are cropped as torchvision and timm do it; clips are not, since torchvision resizes those as tensors.
    """
    given = {name for name in data.model_fields_set if getattr(data, name) is not None}
    side = data.side(training=False) if given & {"image_size", "eval_size"} else seen.image_size
    expected: dict[str, Any] = {
        "image_size": seen.image_size,
        "resize": _scaled(seen.resize, side, seen.image_size),
        "interpolation": seen.interpolation,
        "eval_transform": "exact" if data.clip or seen.clip else "torchvision",
        "mean": seen.mean,
        "std": seen.std,
        **({"clip": dict(seen.clip)} if seen.clip else {}),
    }
    return {name: value for name, value in expected.items() if name not in given}


def _scaled(resize: int | tuple[int, int], side: int, usual: int) -> int | tuple[int, int]:
    """``resize`` for another ``side`` than the ``usual``, rounded down as in timm."""
    if isinstance(resize, int):
        return resize * side // usual
    return resize[0] * side // usual, resize[1] * side // usual


@dataclass(frozen=True)
class View:
    """A part of an image, as the model sees it.

    Attributes:
        box: which part.
        side: of the square that it becomes, in pixels.
        mirrored: left and right change places.
        resample: how pixels are interpolated.
        resized: width and height that the whole image gets first; the box is then a part of that, in
            whole pixels.
        matrix: where each pixel of the square comes from, once it has its size.
        changes: of its colours; labels of pixels have none.
        hole: a box in the square that is erased, in pixels.
        fill: the values, one per channel from 0 to 1, of what is erased or beyond the edges.
    """

    box: Box
    side: int
    mirrored: bool = False
    resample: Image.Resampling = Image.Resampling.BILINEAR
    resized: tuple[int, int] | None = None
    matrix: Matrix | None = None
    changes: tuple[Change, ...] = ()
    hole: tuple[int, int, int, int] | None = None
    fill: tuple[float, ...] = ()

    def of(self, image: Picture) -> Picture:
        """The square that ``image`` becomes."""
        if isinstance(image, Planes):
            fills = self.fill or (0.0,) * len(image.bands)
            return Planes(
                tuple(self._erase(self._of(band, fill), fill) for band, fill in zip(image.bands, fills))
            )
        colour = tuple(round(255 * value) for value in self.fill)
        seen = self._of(image, colour)
        for change in self.changes:
            seen = change(seen)
        return self._erase(seen, colour)

    def _erase(self, image: Image.Image, fill: float | tuple[int, ...]) -> Image.Image:
        if self.hole is not None:
            image = image.copy()  # which may be the source
            image.paste(fill[0] if isinstance(fill, tuple) and len(fill) == 1 else fill, self.hole)
        return image

    def _of(self, image: Image.Image, fill: float | tuple[int, ...] = 0) -> Image.Image:
        if self.resized is None:
            part = image.resize((self.side, self.side), self.resample, box=self.box)
        else:
            left, top, right, bottom = map(int, self.box)
            part = image.resize(self.resized, self.resample).crop((left, top, right, bottom))
        part = ImageOps.mirror(part) if self.mirrored else part
        return part if self.matrix is None else transform(part, self.matrix, self.resample, fill)

    def of_plane(self, values: np.ndarray[Any, Any], fill: float = 0) -> np.ndarray[Any, Any]:
        """The square of an array (h, w) of uint8, int32 or float32, whose values are kept as they are.

        Args:
            values: of pixels.
            fill: the value of what is beyond the edges.
        """
        return np.asarray(self._of(Image.fromarray(values), fill))

    def reduction(self, size: tuple[int, int]) -> float:
        """How many times the needed pixels an image of ``size`` has along a side."""
        if self.resized is not None:
            return min(size[0] / self.resized[0], size[1] / self.resized[1])
        left, top, right, bottom = self.box
        return min(right - left, bottom - top) / self.side

    def within(self, size: tuple[int, int], reduced: tuple[int, int]) -> View:
        """The same view of an image of ``size`` that was decoded as ``reduced``."""
        if size == reduced or self.resized is not None:
            return self
        x, y = reduced[0] / size[0], reduced[1] / size[1]
        left, top, right, bottom = self.box
        return replace(self, box=(left * x, top * y, min(right * x, reduced[0]), min(bottom * y, reduced[1])))


class Seen(NamedTuple):
    """What was read of an image.

    Attributes:
        pictures: what the model sees.
        views: which parts these are, of the image as it is in its file.
        size: its width and height, upright.
    """

    pictures: list[Picture]
    views: list[View]
    size: tuple[int, int]


@dataclass(frozen=True)
class Preprocessing:
    """Crops, resizes and normalises.

    Attributes:
        data: with ``mean`` and ``std``.
    """

    data: DataConfig

    def read(self, source: Readable, channels: int, rng: Random | None = None) -> list[Picture]:
        """The views of an image, of which no more is decoded than they need: see ``read_seen``."""
        return self.read_seen(source, channels, rng).pictures

    def read_seen(self, source: Readable, channels: int, rng: Random | None = None) -> Seen:
        """The views of an image, and which parts of it they are.

        Args:
            source: a file, or an image in memory.
            channels: of the model.
            rng: draws the augmentation; None gives the crops of evaluation.

        Raises:
            ImageError: the file cannot be read.
        """
        views: list[View] = []
        whole: tuple[int, int] | None = None

        def reduction(size: tuple[int, int]) -> float:
            nonlocal whole
            whole = size
            views.extend(self.views(size, rng))
            return min(view.reduction(size) for view in views)

        image = open_image(
            source,
            channels,
            value_range=self.data.value_range,
            max_pixels=self.data.max_pixels,
            reduction=reduction if self.data.reduces else None,
        )
        size = whole or image.size
        views = views or self.views(size, rng)
        return Seen([view.within(size, image.size).of(image) for view in views], views, size)

    def read_views(self, source: Readable, channels: int, rng: Random | None = None) -> np.ndarray[Any, Any]:
        """As ``read``, but what the model sees: (v, c, h, w). Torch is not needed for it."""
        return self.stack(self.read(source, channels, rng))

    def stack(self, pictures: Sequence[Picture]) -> np.ndarray[Any, Any]:
        """Views as the model sees them: (v, c, h, w)."""
        seen = [self.normalize(picture) for picture in pictures]
        return seen[0][None] if len(seen) == 1 else np.stack(seen)

    def crop(self, image: Picture, rng: Random | None = None) -> Picture:
        """The part of ``image`` that the model sees, in its size."""
        views = self.views(image.size, rng)
        return views[len(views) // 2].of(image)

    def views(self, size: tuple[int, int], rng: Random | None = None) -> list[View]:
        """What the model sees of an image, or of every frame of a clip: in training one view.

        Args:
            size: width and height, in pixels.
            rng: draws the augmentation; None gives the crops of evaluation.
        """
        side = self.data.side(training=rng is not None)
        resample = RESAMPLING[self.data.interpolation]
        if rng is None:
            places = (0.0, 0.5, 1.0) if self.data.crops == 3 else (0.5,)
            return [self._view(size, side, place, resample) for place in places]
        augment = self.data.augmentation
        if augment.crop:
            view = View(draw_box(size, augment.crop, rng), side, resample=resample)
        else:
            view = self._view(size, side, 0.5, resample)
        view = replace(view, mirrored=augment.flip > 0 and rng.random() < augment.flip)
        fill = self.data.mean or ()
        colour = tuple(round(255 * value) for value in fill)
        matrix, changes = draw_matrix(augment, side, rng), draw_changes(augment, side, colour, rng)
        hole = draw_hole(augment.erase, side, rng)
        return [replace(view, matrix=matrix, changes=changes, hole=hole, fill=fill)]

    def _view(self, size: tuple[int, int], side: int, place: float, resample: Image.Resampling) -> View:
        if self.data.eval_transform == "exact":
            return View(self._part(size, side, place), side, resample=resample)
        width, height = find_size(size, self.data.resize or side)
        left, top = width - side, height - side
        left = round(left * (place if width >= height else 0.5))
        top = round(top * (place if height > width else 0.5))
        return View((left, top, left + side, top + side), side, False, resample, (width, height))

    def _part(self, size: tuple[int, int], side: int, place: float) -> Box:
        """What becomes the square: of the image as it is, or of the squeezed one."""
        resize = self.data.resize or side
        if isinstance(resize, int):
            return square(size, side / resize, place)
        x, y = size[0] / resize[1], size[1] / resize[0]
        left, top, right, bottom = square((resize[1], resize[0]), side / min(resize), place)
        return left * x, top * y, right * x, bottom * y

    def normalize(self, image: Picture) -> np.ndarray[Any, Any]:
        """Values from 0 to 1, less the mean, over the standard deviation: (c, h, w)."""
        if isinstance(image, Planes):
            mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.data.mean, self.data.std))
            numbers: np.ndarray[Any, Any] = (image.numpy().transpose(2, 0, 1) - mean) / std
            return numbers
        # Looking up the 256 values of 8 bits is several times as fast as computing them for every pixel.
        levels = _scale_levels(tuple(self.data.mean or ()), tuple(self.data.std or ()))
        bands = image.split() if len(levels) > 1 else (image,)
        scaled = np.empty((len(levels), image.height, image.width), np.float32)
        for table, band, found in zip(levels, bands, scaled, strict=True):
            table.take(np.asarray(band), out=found, mode="clip")  # which writes without a buffer
        return scaled


@lru_cache(maxsize=64)
def _scale_levels(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray[Any, Any]:
    """What the 256 levels of each channel become: (c, 256)."""
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    scaled: np.ndarray[Any, Any] = (levels - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[
        :, None
    ]
    return scaled


def find_size(size: tuple[int, int], resize: int | tuple[int, int]) -> tuple[int, int]:
    """The width and height to which torchvision resizes an image of ``size``.

    Args:
        size: width and height.
        resize: the shorter side, or the height and the width.
    """
    if not isinstance(resize, int):
        return resize[1], resize[0]
    width, height = size
    if width <= height:
        return resize, int(resize * height / width)
    return int(resize * width / height), resize


def make_centre_box(size: tuple[int, int], part: float) -> Box:
    """The square in the middle whose side is ``part`` of the shorter side."""
    return square(size, part, 0.5)


def square(size: tuple[int, int], part: float, place: float) -> Box:
    """A square whose side is ``part`` of the shorter side.

    Args:
        size: of the image.
        part: up to 1.
        place: along the longer side, from 0 at its start to 1 at its end.
    """
    width, height = size
    side = min(size) * part
    left = (width - side) * (place if width >= height else 0.5)
    top = (height - side) * (place if height > width else 0.5)
    return left, top, left + side, top + side


def draw_box(size: tuple[int, int], area: tuple[float, float], rng: Random) -> Box:
    """A box of random area, shape (3:4 to 4:3) and place; the centre where none fits."""
    width, height = size
    for _ in range(10):
        target = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(target * ratio), math.sqrt(target / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return make_centre_box(size, 1.0)
