"""From an image to the tensor that the model sees: which part, which size, which scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.train.config import DataConfig
from classy_vision.train.images import MODES

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""

# channels: mean, std
STATISTICS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    1: ((0.5,), (0.5,)),
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def with_statistics(data: DataConfig, channels: int) -> DataConfig:
    """``data`` with a mean and std for ``channels``.

    Raises:
        ConfigError: images do not have that many channels, or the given ones do not fit.
    """
    if channels not in MODES:
        raise ConfigError(f"model.in_channels = {channels}: images have 1 channel (grey) or 3 (colour)")
    mean, std = STATISTICS[channels]
    data = data.model_copy(update={"mean": data.mean or mean, "std": data.std or std})
    for name in ("mean", "std"):
        if len(getattr(data, name)) != channels:
            raise ConfigError(
                f"data.{name} = {list(getattr(data, name))}: one value for each of the model's "
                f"{channels} channels is needed"
            )
    return data


@dataclass(frozen=True)
class Preprocessing:
    """Crops, resizes and normalises.

    Attributes:
        data: with ``mean`` and ``std``.
    """

    data: DataConfig

    def __call__(self, image: Image.Image, rng: Random | None = None) -> Tensor:
        """The tensor (c, image_size, image_size) of ``image``.

        Args:
            image: as ``open_image`` gives it.
            rng: draws the augmentation; None gives the centre crop.
        """
        return self.normalize(self.crop(image, rng))

    def crop(self, image: Image.Image, rng: Random | None = None) -> Image.Image:
        """The part of ``image`` that the model sees, in its size."""
        size = self.data.image_size
        box = centre_box(image.size, size / (self.data.resize or size))
        if rng and self.data.augment == "crop":
            box = random_box(image.size, self.data.crop_area, rng)
        part = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        flip = rng and self.data.augment != "none" and rng.random() < 0.5
        return ImageOps.mirror(part) if flip else part

    def normalize(self, image: Image.Image) -> Tensor:
        """Values from 0 to 1, less the mean, over the standard deviation."""
        mean, std = torch.tensor(self.data.mean), torch.tensor(self.data.std)
        pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1)
        x = pixels.permute(2, 0, 1).float() / 255
        return (x - mean[:, None, None]) / std[:, None, None]


def centre_box(size: tuple[int, int], part: float) -> Box:
    """The square in the middle whose side is ``part`` of the shorter side."""
    width, height = size
    side = min(size) * part
    left, top = (width - side) / 2, (height - side) / 2
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
