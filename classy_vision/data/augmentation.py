"""Training images changed at random, by Pillow.

What is drawn depends on the generator alone, so that it can be seeded by epoch and row. Pillow is what timm and
torchvision use as well; kornia, which works on batches of tensors, is slower on a processor
(``benchmarks/augmentation.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from classy_vision.data.config import AugmentConfig

Change = Callable[[Image.Image], Image.Image]
Matrix = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): the pixel at (x, y) comes from (ax + by + c, dx + ey + f)."""
Colour = tuple[int, ...]
"""The fill of pixels beyond the edges of an image, one number per channel."""


def draw_matrix(augment: AugmentConfig, side: int, rng: Random) -> Matrix | None:
    """Draws how a square image is turned, shifted, zoomed and sheared; None where it stays where it is."""
    if not augment.moves:
        return None
    angle = math.radians(rng.uniform(-augment.rotate, augment.rotate))
    shear = math.tan(math.radians(rng.uniform(-augment.shear, augment.shear)))
    most = math.log1p(augment.zoom)
    zoom = math.exp(rng.uniform(-most, most))
    dx, dy = (side * rng.uniform(-augment.shift, augment.shift) for _ in range(2))
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    return _about_centre((cos, cos * shear + sin, -sin, cos - sin * shear), (dx, dy), side)


def _about_centre(linear: tuple[float, float, float, float], shift: tuple[float, float], side: int) -> Matrix:
    """The matrix that maps the shifted centre of a square to its centre."""
    a, b, d, e = linear
    x, y = side / 2 + shift[0], side / 2 + shift[1]
    return a, b, side / 2 - a * x - b * y, d, e, side / 2 - d * x - e * y


def draw_changes(augment: AugmentConfig, side: int, fill: Colour, rng: Random) -> tuple[Change, ...]:
    """Draws the changes of one square image, or of all frames of a clip, in their order.

    Args:
        augment: what may be changed.
        side: of the image, in pixels.
        fill: where a change leaves nothing.
        rng: draws.
    """
    changes: list[Change] = []
    if augment.policy == "randaugment":
        strength = augment.magnitude / 10
        changes += [_draw_operation(strength, side, fill, rng) for _ in range(augment.operations)]
    elif augment.policy == "trivialaugment":
        changes.append(_draw_operation(rng.random(), side, fill, rng))
    changes += _draw_colours(augment, rng)
    if augment.blur and rng.random() < augment.blur:
        radius = rng.uniform(0.1, 2.0)
        changes.append(lambda image: image.filter(ImageFilter.GaussianBlur(radius)))
    return tuple(changes)


def _draw_colours(augment: AugmentConfig, rng: Random) -> list[Change]:
    """Draws the changes of colours, in a random order."""
    changes: list[Change] = []
    for most, kind in (
        (augment.brightness, ImageEnhance.Brightness),
        (augment.contrast, ImageEnhance.Contrast),
        (augment.saturation, ImageEnhance.Color),
    ):
        if most:
            changes.append(_enhance(kind, 1 + rng.uniform(-most, most)))
    if augment.hue:
        changes.append(_turn_hue(rng.uniform(-augment.hue, augment.hue)))
    rng.shuffle(changes)
    if augment.grey and rng.random() < augment.grey:
        changes.append(lambda image: image.convert("L").convert(image.mode))
    return changes


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance], factor: float) -> Change:
    return lambda image: kind(image).enhance(factor)


def _turn_hue(part: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        if image.mode != "RGB":
            return image
        hue, saturation, value = image.convert("HSV").split()
        turned = hue.point([(level + round(part * 256)) % 256 for level in range(256)])
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")

    return change


# -- the operations of RandAugment and TrivialAugment


class Operation(NamedTuple):
    """A change of a policy.

    Attributes:
        make: from its strength, the side of the image and the colour of what is left empty to the change.
        signed: whether it goes both ways, so that its strength may be negative.
    """

    make: Callable[[float, int, Colour], Change]
    signed: bool = False


def _move(make: Callable[[float, int], Matrix]) -> Callable[[float, int, Colour], Change]:
    def operation(strength: float, side: int, fill: Colour) -> Change:
        matrix = make(strength, side)
        return lambda image: transform(image, matrix, Image.Resampling.BILINEAR, fill)

    return operation


def _stronger(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Callable[[float, int, Colour], Change]:
    return lambda strength, side, fill: _enhance(kind, 1 + 0.9 * strength)


def _rotation(strength: float, side: int) -> Matrix:
    angle = math.radians(30 * strength)
    return _about_centre((math.cos(angle), math.sin(angle), -math.sin(angle), math.cos(angle)), (0, 0), side)


OPERATIONS: dict[str, Operation] = {
    "identity": Operation(lambda strength, side, fill: lambda image: image),
    "auto_contrast": Operation(lambda strength, side, fill: ImageOps.autocontrast),
    "equalize": Operation(lambda strength, side, fill: ImageOps.equalize),
    "solarize": Operation(
        lambda strength, side, fill: lambda image: ImageOps.solarize(image, round(256 * (1 - strength)))
    ),
    "posterize": Operation(
        lambda strength, side, fill: lambda image: ImageOps.posterize(image, 8 - round(4 * strength))
    ),
    "saturation": Operation(_stronger(ImageEnhance.Color), signed=True),
    "contrast": Operation(_stronger(ImageEnhance.Contrast), signed=True),
    "brightness": Operation(_stronger(ImageEnhance.Brightness), signed=True),
    "sharpness": Operation(_stronger(ImageEnhance.Sharpness), signed=True),
    "rotate": Operation(_move(_rotation), signed=True),
    "shear_x": Operation(_move(lambda s, side: _about_centre((1, 0.3 * s, 0, 1), (0, 0), side)), signed=True),
    "shear_y": Operation(_move(lambda s, side: _about_centre((1, 0, 0.3 * s, 1), (0, 0), side)), signed=True),
    "shift_x": Operation(_move(lambda s, side: (1, 0, 0.45 * s * side, 0, 1, 0)), signed=True),
    "shift_y": Operation(_move(lambda s, side: (1, 0, 0, 0, 1, 0.45 * s * side)), signed=True),
}
"""With the ranges of RandAugment (Cubuk et al., 2020, appendix A), as timm has them."""


def _draw_operation(strength: float, side: int, fill: Colour, rng: Random) -> Change:
    operation = OPERATIONS[rng.choice(list(OPERATIONS))]
    sign = -1 if operation.signed and rng.random() < 0.5 else 1
    return operation.make(sign * strength, side, fill)


# -- pixels


def transform(
    image: Image.Image, matrix: Matrix, resample: Image.Resampling, fill: float | Sequence[float]
) -> Image.Image:
    """Moves the pixels of an image.

    Args:
        image: of any mode.
        matrix: where each pixel comes from.
        resample: how pixels are interpolated.
        fill: of pixels that come from beyond the edges.
    """
    colour = fill if isinstance(fill, (int, float)) else tuple(fill) if len(fill) > 1 else fill[0]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=colour)


def draw_hole(probability: float, side: int, rng: Random) -> tuple[int, int, int, int] | None:
    """Draws what is erased of a square: left, top, right and bottom in pixels; None for nothing."""
    if not probability or rng.random() >= probability:
        return None
    area = rng.uniform(0.02, 1 / 3) * side * side
    ratio = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
    width, height = (min(side, max(1, round(math.sqrt(area * r)))) for r in (ratio, 1 / ratio))
    left, top = rng.randint(0, side - width), rng.randint(0, side - height)
    return left, top, left + width, top + height
