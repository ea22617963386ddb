"""What people hand to a predictor: files, folders, images in memory and tensors, one or many, as single inputs.

Axes: n samples, c channels, t time, h height, w width.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.train.data_config import DataConfig
from classy_vision.train.images import FORMATS, ImageError, open_header
from classy_vision.train.samples import read_views
from classy_vision.train.sources import SUFFIXES

Pixels = np.ndarray[Any, Any]
Source: TypeAlias = "str | Path | Image.Image | bytes | BinaryIO | Pixels | Tensor"
"""A single input: see ``Predictor.predict``."""
LOADING = Lock()
"""Pillow reads an image when it is first used, which one thread can do."""
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
    if isinstance(source, Tensor):
        return source.ndim <= (4 if data.clip and source.dtype != torch.uint8 else 3)
    if isinstance(source, np.ndarray):
        return source.ndim <= 3
    return isinstance(source, (Image.Image, bytes, bytearray, memoryview)) or hasattr(source, "read")


def find_inputs(source: Any, data: DataConfig, numbers: Iterator[int] | None = None) -> Iterator[Input]:
    """The inputs in ``source``, lazily.

    Args:
        source: what ``Predictor.predict`` takes.
        data: says whether folders are searched for images or for videos.
        numbers: of those without a name.

    Raises:
        ConfigError: something that is no input, an empty name, or a folder without images.
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
            f"a {type(source).__name__} is no input: give files, folders, images of PIL, arrays (h, w, c) of "
            f"uint8, tensors, bytes or open files, or several of them"
        )


def _name(source: Any) -> str:
    """The file that something in memory was read from, where it says it."""
    named = getattr(source, "filename", None) or getattr(source, "name", None)
    return named if isinstance(named, str) else ""


def walk(argument: str | Path, unit: str) -> Iterator[str]:
    """A file as it is; the images or videos in a folder, in order.

    Raises:
        ConfigError: an empty name, or a folder in which there are none.
    """
    if not str(argument):
        raise ConfigError(f"a file or folder of {unit}s is needed, not ''")
    path = os.path.expanduser(argument)
    if not os.path.isdir(path):
        yield path
        return
    files = _files(path, SUFFIXES[unit])
    first = next(files, None)
    if first is None:
        raise ConfigError(f"there is no {unit} in the folder {str(argument)!r}")
    yield first
    yield from files


def _files(folder: str, suffixes: Iterable[str]) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, suffixes)
        elif os.path.splitext(entry.name)[1].lower() in suffixes:
            yield entry.path


# -- reading


def read_input(one: Input, data: DataConfig, channels: int) -> Tensor:
    """What the model sees of an input: (v, c, h, w) of an image, (v, c, t, h, w) of a video.

    Raises:
        ImageError: it cannot be read, or is no image.
    """
    source = one.source
    if isinstance(source, Tensor) and source.dtype != torch.uint8:
        return _prepared(one, data, channels)
    if data.clip is not None and not isinstance(source, Path):
        raise ImageError(Path(one.name), "a video is given as a file, or as a tensor that is preprocessed")
    try:
        return read_views(_as_image(source, data.max_pixels), data, channels)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(
            Path(one.name), f"not an image, or not of a format that is read ({', '.join(FORMATS)})"
        ) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(Path(one.name), error) from None


def _as_image(source: Any, max_pixels: int) -> Path | Image.Image:
    """A file, or an image in memory; Pillow's own errors where there is none."""
    if isinstance(source, Path):
        return source
    if isinstance(source, Image.Image):
        with LOADING:
            source.load()
        return ImageOps.exif_transpose(source)
    if isinstance(source, Tensor):
        source = source.cpu().permute(1, 2, 0).numpy() if source.ndim == 3 else source.cpu().numpy()
    if isinstance(source, np.ndarray):
        return Image.fromarray(_pixels(source))
    file = io.BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source
    return ImageOps.exif_transpose(open_header(file, max_pixels))


def _pixels(pixels: Pixels) -> Pixels:
    if pixels.ndim not in (2, 3) or pixels.dtype != np.uint8 or not pixels.size:
        given = f"{pixels.dtype} {pixels.shape}"
        raise ValueError(f"pixels are uint8: arrays (h, w) or (h, w, c), tensors (c, h, w), not {given}")
    if pixels.ndim == 3 and pixels.shape[2] not in COLOURS:
        raise ValueError(f"pixels of shape {pixels.shape} (h, w, c): c must be 1, 3 or 4")
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _prepared(one: Input, data: DataConfig, channels: int) -> Tensor:
    """A tensor of numbers, as one view."""
    source, wanted = one.source, data.input_shape(channels, training=False)
    if source.is_floating_point() and len(source.shape) == len(wanted) and source.shape[0] == channels:
        return source.detach().float().cpu()[None]
    raise ImageError(
        Path(one.name),
        f"a {source.dtype} tensor {tuple(source.shape)}: preprocessed ones are floating-point "
        f"{wanted}, and pixels are uint8 (c, h, w)",
    )
