"""What people hand to a predictor: files, folders, images in memory and tensors, one or many, as single inputs.

Axes: n samples, c channels, t time, h height, w width.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import prod
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from typing_extensions import TypeIs

from classy_vision.config import ConfigError
from classy_vision.data.config import DataConfig
from classy_vision.data.files import walk
from classy_vision.data.images import FORMATS, UNREADABLE, ImageError, Picture, Readable, open_image
from classy_vision.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor  # images are read without it

Pixels = np.ndarray[Any, Any]
Source: TypeAlias = "str | Path | Image.Image | bytes | BinaryIO | Pixels | Tensor"
"""A single input: see ``Predictor.predict``."""
LOADING = Lock()
"""Pillow reads an image when it is first used, which one thread can do."""
MAX_VALUES = 2**28
"""Of the views of one input, a gigabyte: more is refused before anything is read."""
COLOURS = (1, 3, 4)
"""Channels that pixels have: grey, colour, colour and opacity."""


@dataclass(frozen=True)
class Input:
    """One input.

    Attributes:
        name: what results and messages call it.
        source: what it is read from.
    """

    name: str
    source: Any


def is_one(source: Any, data: DataConfig) -> bool:
    """Whether ``source`` is a single input, rather than several or a folder of them."""
    if isinstance(source, Input):
        return True
    if isinstance(source, (str, Path)):
        return bool(str(source)) and not Path(source).expanduser().is_dir()
    if _is_tensor(source):
        return source.ndim <= (4 if data.clip and not _are_pixels(source) else 3)
    if isinstance(source, np.ndarray):
        return source.ndim <= 3
    return isinstance(source, (Image.Image, bytes, bytearray, memoryview)) or hasattr(source, "read")


def _is_tensor(source: Any) -> TypeIs[Tensor]:
    """Whoever has one has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def _are_pixels(tensor: Tensor) -> bool:
    return str(tensor.dtype) == "torch.uint8"


def find_inputs(source: Any, data: DataConfig, numbers: Iterator[int] | None = None) -> Iterator[Input]:
    """The inputs in ``source``, lazily.

    Args:
        source: what ``Predictor.predict`` takes.
        data: says whether folders are searched for images or for videos.
        numbers: of those without a name.

    Raises:
        ConfigError: something that is not an input, an empty name, or a folder without images.
    """
    numbers = count() if numbers is None else numbers
    if isinstance(source, (str, Path)):
        yield from (Input(path, Path(path)) for path in walk(source, data.unit))
    elif isinstance(source, Input):
        yield source
    elif is_one(source, data):
        yield Input(_name(source) or f"{data.unit} {next(numbers)}", source)
    elif isinstance(source, Iterable) and not isinstance(source, Mapping):
        for one in source:  # also the parts of a batch
            yield from find_inputs(one, data, numbers)
    else:
        raise ConfigError(
            f"a {type(source).__name__} is not an input: give files, folders, images of PIL, arrays (h, w, c) "
            f"of uint8, tensors, bytes or open files, or several of them"
        )


def _name(source: Any) -> str:
    """The file that something in memory was read from, where it says it."""
    named = getattr(source, "filename", None) or getattr(source, "name", None)
    return named if isinstance(named, str) else ""


# -- reading


def check_memory(data: DataConfig, channels: int, where: str) -> None:
    """Raises where preprocessing would take absurdly much memory for one input.

    Raises:
        ConfigError: it would.
    """
    *rest, height, width = data.input_shape(channels, training=False)
    resized = data.resize if isinstance(data.resize, tuple) else (data.resize or 1,) * 2
    values = prod(rest) * max(data.views * height * width, prod(resized))
    if values > MAX_VALUES:
        raise ConfigError(
            f"{where}: its preprocessing makes {values:,} values of one {data.unit}, of at most {MAX_VALUES:,}"
        )


def read_input(one: Input, data: DataConfig, channels: int) -> Pixels:
    """What the model sees of an input: (v, c, h, w) of an image, (v, c, t, h, w) of a video, in float32.

    Raises:
        ImageError: it cannot be read, or is not an image.
    """
    source = one.source
    if _is_tensor(source) and not _are_pixels(source):
        return _read_tensor(one, data, channels)
    if data.clip is not None and not isinstance(source, Path):
        raise ImageError(Path(one.name), "a video is given as a file, or as a tensor that is preprocessed")
    with _reading(one):
        return _read_views(_as_image(source), data, channels)


def read_picture(one: Input, data: DataConfig, channels: int) -> Picture | Pixels:
    """All of an image, upright and with the model's channels; of a preprocessed tensor itself, (c, h, w).

    Raises:
        ImageError: it cannot be read, or is not an image.
    """
    if _is_tensor(one.source) and not _are_pixels(one.source):
        prepared: Pixels = _read_tensor(one, data, channels)[0]
        return prepared
    with _reading(one):
        image = _as_image(one.source)
        return open_image(image, channels, value_range=data.value_range, max_pixels=data.max_pixels)


@contextmanager
def _reading(one: Input) -> Iterator[None]:
    """Turns what goes wrong inside into one message about ``one``."""
    try:
        yield
    except ConfigError:  # of the input, or of what is needed to read any such input
        raise
    except UnidentifiedImageError:
        raise ImageError(
            Path(one.name), f"not an image, or not of a format that is read ({', '.join(FORMATS)})"
        ) from None
    except UNREADABLE as error:
        raise ImageError(Path(one.name), str(error) or type(error).__name__) from None


def _read_views(source: Readable, data: DataConfig, channels: int) -> Pixels:
    if data.clip is not None:
        from classy_vision.data.samples import read_views  # of videos, with torch

        assert isinstance(source, Path)
        return read_views(source, data, channels).numpy()
    return Preprocessing(data).read_views(source, channels)


def _as_image(source: Any) -> Readable:
    """A file, an open one, or an image in memory; raises Pillow's own errors."""
    if isinstance(source, Path):
        return source
    if isinstance(source, Image.Image):
        with LOADING:
            source.load()
        return ImageOps.exif_transpose(source)
    if _is_tensor(source):
        source = source.cpu().permute(1, 2, 0).numpy() if source.ndim == 3 else source.cpu().numpy()
    if isinstance(source, np.ndarray):
        return Image.fromarray(_pixels(source))
    return io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source


def _pixels(pixels: Pixels) -> Pixels:
    if pixels.ndim not in (2, 3) or pixels.dtype != np.uint8 or not pixels.size:
        given = f"{pixels.dtype} {pixels.shape}"
        raise ValueError(f"pixels are uint8: arrays (h, w) or (h, w, c), tensors (c, h, w), not {given}")
    if pixels.ndim == 3 and pixels.shape[2] not in COLOURS:
        raise ValueError(f"pixels of shape {pixels.shape} (h, w, c): c must be 1, 3 or 4")
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _read_tensor(one: Input, data: DataConfig, channels: int) -> Pixels:
    """A tensor of numbers, as one view."""
    source, wanted = one.source, data.input_shape(channels, training=False)
    if source.is_floating_point() and len(source.shape) == len(wanted) and source.shape[0] == channels:
        prepared: Pixels = source.detach().float().cpu().numpy()
        return prepared[None]
    raise ImageError(
        Path(one.name),
        f"a {source.dtype} tensor {tuple(source.shape)}: preprocessed ones are floating-point "
        f"{wanted}, and pixels are uint8 (c, h, w)",
    )
