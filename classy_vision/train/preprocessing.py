"""From an image to the tensor that the model sees: which part, which size, which scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from classy_vision.config import ConfigError
from classy_vision.train.data_config import DataConfig
from classy_vision.train.images import MODES

if TYPE_CHECKING:
    from torch import Tensor  # what exported files are run on needs none

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
        ConfigError: images do not have that many channels, or the given ones do not fit.
    """
    if channels not in MODES:
        raise ConfigError(f"model.in_channels = {channels}: {data.unit}s have 1 channel (grey) or 3 (colour)")
    mean, std = (CLIP_STATISTICS if data.clip else STATISTICS)[channels]
    data = data.model_copy(update={"mean": data.mean or mean, "std": data.std or std})
    for name in ("mean", "std"):
        if len(getattr(data, name)) != channels:
            raise ConfigError(
                f"data.{name} = {list(getattr(data, name))}: one value for each of the model's "
                f"{channels} channels is needed"
            )
    return data


@dataclass(frozen=True)
class View:
    """A part of an image, as the model sees it.

    Attributes:
        box: which part.
        side: of the square that it becomes, in pixels.
        mirrored: left and right change places.
        resample: how pixels are interpolated.
    """

    box: Box
    side: int
    mirrored: bool = False
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def of(self, image: Image.Image) -> Image.Image:
        """The square that ``image`` becomes."""
        part = image.resize((self.side, self.side), self.resample, box=self.box)
        return ImageOps.mirror(part) if self.mirrored else part


@dataclass(frozen=True)
class Preprocessing:
    """Crops, resizes and normalises.

    Attributes:
        data: with ``mean`` and ``std``.
    """

    data: DataConfig

    def __call__(self, image: Image.Image, rng: Random | None = None) -> Tensor:
        """The tensor (c, side, side) of ``image``.

        Args:
            image: as ``open_image`` gives it.
            rng: draws the augmentation; None gives the centre crop.
        """
        return self.normalize(self.crop(image, rng))

    def crop(self, image: Image.Image, rng: Random | None = None) -> Image.Image:
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
            places = (0.0, 0.5, 1.0) if self.data.clip and self.data.clip.crops == 3 else (0.5,)
            return [View(self._part(size, side, place), side, resample=resample) for place in places]
        box = self._part(size, side, 0.5)
        if self.data.augment == "crop":
            box = random_box(size, self.data.crop_area, rng)
        return [View(box, side, self.data.augment != "none" and rng.random() < 0.5, resample)]

    def _part(self, size: tuple[int, int], side: int, place: float) -> Box:
        """What becomes the square: of the image as it is, or of the squeezed one."""
        resize = self.data.resize or side
        if isinstance(resize, int):
            return square(size, side / resize, place)
        x, y = size[0] / resize[1], size[1] / resize[0]
        left, top, right, bottom = square((resize[1], resize[0]), side / min(resize), place)
        return left * x, top * y, right * x, bottom * y

    def normalize(self, image: Image.Image) -> Tensor:
        """Values from 0 to 1, less the mean, over the standard deviation: (c, h, w)."""
        import torch

        return torch.from_numpy(self.array(image))

    def array(self, image: Image.Image) -> np.ndarray[Any, Any]:
        """The same as an array, for which torch is not needed."""
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.data.mean, self.data.std))
        pixels = np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)
        x = pixels.astype(np.float32) / np.float32(255)
        scaled: np.ndarray[Any, Any] = (x - mean) / std
        return scaled


def centre_box(size: tuple[int, int], part: float) -> Box:
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


def random_box(size: tuple[int, int], area: tuple[float, float], rng: Random) -> Box:
    """A box of random area, shape (3:4 to 4:3) and place; the centre where none fits."""
    width, height = size
    for _ in range(10):
        target = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(target * ratio), math.sqrt(target / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return centre_box(size, 1.0)
