"""Image files as people have them: turned, grey, transparent, with palettes, 16 bits or many channels.

Axes: h height, w width, c channels.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from classy_vision.config import ConfigError
from classy_vision.data.config import DataConfig

MODES = {1: "L", 3: "RGB"}
"""Pillow's mode by channels."""
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP", "AVIF")
"""Pillow's names of what is decoded. No other decoder is reached: EPS would start Ghostscript."""
NUMPY = ".npy"
TIFFS = (".tif", ".tiff")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SAMPLES_PER_PIXEL = 277
"""TIFF's tag."""
MAX_PIXELS = 2**26
LOOKED_AT = 8
"""Images that are looked at before a run."""
FULL_SCALE = {"bool": (0.0, 1.0), "uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}
"""The values of numpy's types that become 0 and 1."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Grey of red, green and blue, as in Pillow."""
ORIENTATION = 0x0112
"""Exif's tag that says how a photograph is turned."""
TURNED = (5, 6, 7, 8)
"""Its values of images on their side."""
DARK = 2**12
"""A 16-bit image without a value from here on is nearly black as it is."""

ValueRange = Literal["auto"] | tuple[float, float] | None
_OPENING = Lock()
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    Image.DecompressionBombError,
)
"""What reading a damaged image raises; a ``ConfigError``, which is a ValueError, is not about the file."""


class ImageError(ConfigError):
    """A file that holds no readable image or video, and the reason."""

    def __init__(self, source: Path, reason: object) -> None:
        super().__init__(f"{source}: {reason}")
        self.reason = str(reason)


class WrongChannelsError(ImageError):
    """An image that does not have the channels of the model."""


class _WrongChannels(ValueError):  # noqa: N818 (of an image whose file is not known here)
    def __init__(self, found: int, wanted: int) -> None:
        has = f"{found} channel" + "s" * (found > 1)
        super().__init__(f"the image has {has}, but the model takes {wanted} (model.in_channels)")


@dataclass(frozen=True)
class Planes:
    """An image of any number of channels, whose values are numbers from 0 to 1.

    Attributes:
        bands: a Pillow image of mode "F" per channel, all of one size.
    """

    bands: tuple[Image.Image, ...]

    @classmethod
    def of(cls, pixels: np.ndarray[Any, Any]) -> Planes:
        """The planes of an array (h, w, c)."""
        return cls(tuple(Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(pixels, 2, 0)))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.bands[0].size

    def each(self, change: Callable[[Image.Image], Image.Image]) -> Planes:
        """Every channel changed alike."""
        return Planes(tuple(map(change, self.bands)))

    def numpy(self) -> np.ndarray[Any, Any]:
        """(h, w, c) in float32."""
        return np.stack([np.asarray(band) for band in self.bands], axis=2)

    def show(self) -> Image.Image:
        """What people see of it: its first three channels in colour, or the first in grey."""
        shown = self.bands[:3] if len(self.bands) >= 3 else self.bands[:1]
        grey = [Image.fromarray(np.rint(np.asarray(b) * 255).clip(0, 255).astype(np.uint8)) for b in shown]
        return Image.merge("RGB", grey) if len(grey) == 3 else grey[0]


Picture = Image.Image | Planes
"""An image of 8 bits, or of numbers."""
Readable: TypeAlias = "Path | BinaryIO | Image.Image"
"""What an image is read from."""


def open_image(
    source: Readable,
    channels: int,
    *,
    value_range: ValueRange = None,
    max_pixels: int = MAX_PIXELS,
    reduction: Callable[[tuple[int, int]], float] | None = None,
) -> Picture:
    """The image upright, with ``channels`` channels; what is transparent shows white.

    It has 8 bits per channel, unless ``value_range`` is given or there are neither one nor three
    channels. Grey becomes colour and colour grey; other numbers of channels must be the file's.

    Args:
        source: a file, an open file, or an image in memory.
        channels: of the model.
        value_range: the values that become 0 and 1, or "auto" for the image's own extremes.
        max_pixels: larger files are refused.
        reduction: from the width and height of the upright image to how many times as many pixels
            along a side there are as are needed; None decodes all of them.

    Raises:
        ImageError: the file is missing, damaged, too large, or not an image of such channels. Of an open file
            the errors are Pillow's own.
    """
    if isinstance(source, Image.Image):
        return _fit_channels(source, channels, value_range)
    if not isinstance(source, Path):
        return _decode(source, channels, value_range, max_pixels, reduction)
    with _reading(source):
        if source.suffix.lower() == NUMPY:
            return _from_array(_read_array(source, max_pixels), channels, value_range)
        if source.suffix.lower() in TIFFS and _needs_tifffile(source, channels, value_range):
            return _from_array(_read_tiff(source, max_pixels), channels, value_range)
        return _decode(source, channels, value_range, max_pixels, reduction)


def _decode(
    source: Path | BinaryIO,
    channels: int,
    value_range: ValueRange,
    max_pixels: int,
    reduction: Callable[[tuple[int, int]], float] | None,
) -> Picture:
    with open_header(source, max_pixels) as image:
        if image.format in ("JPEG", "MPO") and reduction is not None:
            _reduce(image, reduction)
        if value_range is not None and _is_cut(image):
            raise ValueError("of 16 bits per channel 8 would be read: convert it to TIFF or .npy")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # which copies only what is turned
        return _fit_channels(image, channels, value_range)


def check_images(images: Sequence[Path | Image.Image], channels: int, data: DataConfig) -> None:
    """Looks at a few images before any work is done; unreadable ones are for whoever reads them.

    Raises:
        ConfigError: they do not have the model's channels, or they would all be nearly black.
    """
    looked_at = images[:: max(1, len(images) // LOOKED_AT)][:LOOKED_AT]
    files = [image for image in looked_at if isinstance(image, Path)]
    dark: list[int | None] = []
    for file in files:
        try:
            if not dark:
                open_image(file, channels, value_range=data.value_range, max_pixels=data.max_pixels)
            dark.append(_find_largest_of_16_bits(file) if data.value_range is None else None)
        except WrongChannelsError:
            raise
        except ImageError:
            continue
    largest = [value for value in dark if value is not None]
    if largest and len(largest) == len(dark) and max(largest) < DARK:
        raise ConfigError(
            f"{files[0]} and others have 16 bits per pixel but no value above {max(largest)}, so that they "
            f"would be nearly black: set data.value_range, such as [0, {_find_full_scale(max(largest))}] "
            f"(or [0, 65535], if they are that dark)"
        )


def count_channels(source: Path) -> int | None:
    """How many channels an array or a TIFF file of more than four has; None for all other images.

    Raises:
        ImageError: the file cannot be read.
        ConfigError: a package is needed for that.
    """
    suffix = source.suffix.lower()
    with _reading(source):
        if suffix == NUMPY:
            return _shape(_map_array(source).shape)[2]
        if suffix in TIFFS and _starts_as_tiff(source):
            try:
                with open_header(source, MAX_PIXELS) as image:
                    samples = int(getattr(image, "tag_v2", {}).get(SAMPLES_PER_PIXEL, 1))
            except UnidentifiedImageError:
                samples = _read_tiff(source, MAX_PIXELS).shape[2]
            return samples if samples > 4 else None
    return None


def read_size(source: Path) -> tuple[int, int]:
    """The width and height of an image file, upright.

    Raises:
        ImageError: it cannot be read.
    """
    with _reading(source):
        if source.suffix.lower() == NUMPY:
            height, width, _ = _shape(_map_array(source).shape)
            return width, height
        with open_header(source, 2**62) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ORIENTATION) in TURNED else (width, height)


def read_pixels(source: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray[Any, Any]:
    """The values in an image file as they are, (h, w) or (h, w, c); of an indexed one those of its colours.

    Raises:
        ImageError: it cannot be read.
    """
    with _reading(source):
        if source.suffix.lower() == NUMPY:
            pixels = _read_array(source, max_pixels)
            return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        with open_header(source, max_pixels) as image:
            if image.mode == "1":
                return np.asarray(image).astype(np.uint8)
            return np.array(image)


# -- files


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Turns what goes wrong inside into one message about ``source``."""
    try:
        yield
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ImageError(source, "no such file") from None
    except _WrongChannels as error:
        raise WrongChannelsError(source, error) from None
    except UnidentifiedImageError:
        raise ImageError(
            source, f"not an image, or not of a format that is read ({', '.join(FORMATS)})"
        ) from None
    except UNREADABLE as error:
        raise ImageError(source, str(error) or type(error).__name__) from None


def open_header(source: Path | BinaryIO, max_pixels: int) -> Image.Image:
    """The header of an image file, whose pixels are not read yet."""
    formats = [name for name in FORMATS if name != "AVIF" or features.check("avif")]
    with _OPENING:  # Pillow's own limit is one for the whole process
        pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(source, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = pillows
    try:
        _check_size(image.size, max_pixels)
    except ValueError:
        image.close()
        raise
    return image


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ValueError(
            f"{size[0]}x{size[1]} pixels; at most {max_pixels:,} are read, which data.max_pixels can raise"
        )


def _reduce(image: Image.Image, reduction: Callable[[tuple[int, int]], float]) -> None:
    """Lets JPEG's decoder shrink ``image`` while twice the needed pixels remain along each side."""
    width, height = image.size
    turned = image.getexif().get(ORIENTATION) in TURNED
    spare = reduction((height, width) if turned else (width, height))
    times = next((times for times in (8, 4, 2) if spare >= 2 * times), 1)
    if times > 1:
        image.draft(None, (max(1, width // times), max(1, height // times)))


def _read_array(source: Path, max_pixels: int) -> np.ndarray[Any, Any]:
    """The array (h, w, c) of a .npy file; nothing is unpickled."""
    found = _map_array(source)
    shape = _shape(found.shape)
    _check_size((shape[1], shape[0]), max_pixels)
    return np.array(found).reshape(shape)


def _map_array(source: Path) -> np.ndarray[Any, Any]:
    with source.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError("not an array that numpy saved")
    found: np.ndarray[Any, Any] = np.load(source, mmap_mode="r", allow_pickle=False)
    return found


def _shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(h, w, c) of an array (h, w) or (h, w, c)."""
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"an array of shape {shape}, where (height, width, channels) is needed")
    return shape[0], shape[1], shape[2] if len(shape) == 3 else 1


def _needs_tifffile(source: Path, channels: int, value_range: ValueRange) -> bool:
    """Whether Pillow would leave out channels or bits that are asked for."""
    if channels not in MODES:
        return True
    if value_range is None:
        return False
    with open_header(source, 2**62) as image:
        return _is_cut(image)


def _starts_as_tiff(source: Path) -> bool:
    with source.open("rb") as file:
        return file.read(4) in TIFF_MAGIC


def _read_tiff(source: Path, max_pixels: int) -> np.ndarray[Any, Any]:
    """The array (h, w, c) of a TIFF file that Pillow cannot read as it is; pages count as channels."""
    try:
        import tifffile  # an extra
    except ModuleNotFoundError:
        raise ConfigError(
            f"{source} is a TIFF file of many channels, which needs: pip install 'classy-vision-models[tiff]'"
        ) from None
    try:
        with tifffile.TiffFile(source) as file:
            series = file.series[0]
            axes = {
                axis: place for place, axis in enumerate(series.axes) if series.shape[place] > 1 or axis in "YX"
            }
            others = sorted(axes.keys() - set("YX"))
            if len(others) > 1 or not set("YX") <= axes.keys():
                raise ValueError(f"axes {series.axes} of {series.shape}; height, width and one more are read")
            _check_size((series.shape[axes["X"]], series.shape[axes["Y"]]), max_pixels)
            order = [axes[axis] for axis in ("Y", "X", *others)]
            order += [place for place in range(len(series.shape)) if place not in order]
            pixels = series.asarray().transpose(order)
    except Exception as error:  # a decoder in Python fails in many ways
        raise ImageError(source, str(error) or type(error).__name__) from None
    return pixels.reshape(*pixels.shape[:2], -1)


# -- values


def _fit_channels(image: Image.Image, channels: int, value_range: ValueRange) -> Picture:
    if channels not in MODES:
        return _from_array(np.asarray(image), channels, value_range)
    if value_range is None:
        return _convert(_to_eight_bits(image), MODES[channels])
    if not image.mode.startswith(("I", "F")):
        image = _convert(_remove_transparency(image), MODES[channels])
    return _from_array(np.asarray(image), channels, value_range)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # which copies


def _is_cut(image: Image.Image) -> bool:
    """Whether Pillow will keep 8 of a file's 16 bits."""
    cut = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    return cut and not image.mode.startswith("I")


def _from_array(pixels: np.ndarray[Any, Any], channels: int, value_range: ValueRange) -> Picture:
    """The image of an array (h, w) or (h, w, c)."""
    shape = _shape(pixels.shape)
    pixels, found = pixels.reshape(shape), shape[2]
    if found != channels and not (found in MODES and channels in MODES):
        raise _WrongChannels(found, channels)
    if pixels.dtype == np.uint8 and value_range is None and channels in MODES:
        return _convert(Image.fromarray(pixels[:, :, 0] if found == 1 else pixels), MODES[channels])
    low, high = _find_limits(pixels, value_range)
    scaled = ((pixels.astype(np.float32) - low) / (high - low)).clip(0, 1)
    if found > channels:
        scaled = scaled @ LUMA[:, None]
    return Planes.of(scaled if found >= channels else scaled.repeat(channels, axis=2))


def _find_limits(pixels: np.ndarray[Any, Any], value_range: ValueRange) -> tuple[float, float]:
    """The values that become 0 and 1."""
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"pixels of type {pixels.dtype}, which are not numbers")
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError("some pixels are not finite numbers")
    if value_range == "auto":
        low, high = float(pixels.min()), float(pixels.max())
        return low, high if high > low else low + 1
    limits = value_range or FULL_SCALE.get(pixels.dtype.name)
    if limits is None:
        raise ValueError(f"pixels of type {pixels.dtype}, whose range is not known: set data.value_range")
    return limits


def _remove_transparency(image: Image.Image) -> Image.Image:
    """The image on white, where a part of it is transparent."""
    if not image.has_transparency_data:
        return image
    shown = _convert(image, "RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), shown)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of unknown range: set data.value_range")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.float32)
        return Image.fromarray(np.rint(deep / 257).clip(0, 255).astype(np.uint8))
    return _remove_transparency(image)


def _find_largest_of_16_bits(source: Path) -> int | None:
    """The largest value of an image of 16 bits; None of another."""
    with _reading(source):
        if source.suffix.lower() == NUMPY:
            return None
        with open_header(source, MAX_PIXELS) as image:
            return int(np.asarray(image).max()) if image.mode.startswith("I") else None


def _find_full_scale(value: int) -> int:
    """The largest value of as many bits as ``value`` takes."""
    return int(2 ** max(8, value.bit_length()) - 1)


def turn_upright(pixels: np.ndarray[Any, Any], matrix: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
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
