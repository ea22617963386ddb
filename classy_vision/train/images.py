"""Image files as people have them: turned, grey, see-through, with palettes or 16 bits."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from classy_vision.config import ConfigError

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode by channels."""

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


class ImageError(ConfigError):
    """A file that holds no readable image or video, and the reason."""

    def __init__(self, source: Path, reason: object) -> None:
        super().__init__(f"{source}: {reason}")
        self.reason = str(reason)


def open_image(source: Path | Image.Image, channels: int) -> Image.Image:
    """The image upright, with 8 bits in each of ``channels``; what is see-through shows white.

    Args:
        source: a file, or an image in memory.
        channels: 1 for grey, 3 for colour.

    Raises:
        ImageError: the file is missing, damaged or no image.
    """
    if isinstance(source, Image.Image):
        return _eight_bits(source).convert(MODES[channels])
    try:
        with Image.open(source) as image:
            return _eight_bits(ImageOps.exif_transpose(image)).convert(MODES[channels])
    except FileNotFoundError:
        raise ImageError(source, "no such file") from None
    except UnidentifiedImageError:
        raise ImageError(source, "not an image, or of an unknown format") from None
    except _UNREADABLE as error:
        raise ImageError(source, error) from None


def upright(pixels: np.ndarray[Any, Any], matrix: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    """``pixels`` (h, w, c) as they are meant to be seen: turned by quarters, and mirrored.

    Args:
        pixels: as they are coded.
        matrix: (3, 3) that takes the coded (x, y, 1) to the shown one: row times matrix.
    """
    if matrix is None:
        return pixels
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.rint(deep / 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        opaque = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), opaque)
    return image
