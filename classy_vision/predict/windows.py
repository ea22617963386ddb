"""Answers for each pixel of images of any size, from a model that sees squares. Nothing here needs torch.

An image is scaled as in evaluation. Windows of the size that the model is trained on cover all of it; what it
says of them is averaged where they overlap, and resized to the image. Heads that answer for the whole image see
what they see without this. Axes: n windows, c channels, k outputs, h height, w width.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from classy_vision.data.config import DataConfig
from classy_vision.data.files import count_workers
from classy_vision.data.images import ImageError, Picture, Planes
from classy_vision.data.preprocessing import RESAMPLING, Preprocessing
from classy_vision.errors import ConfigError, first_line
from classy_vision.predict.inputs import MAX_VALUES, Input, find_inputs, read_picture
from classy_vision.predict.streaming import BATCH, Array, Output, Run, read_ahead

Window = Literal["slide", "whole"]
"""Whether windows slide over an image, or the model sees all of it at once, whatever its shape."""
OVERLAP = 0.25
"""Of windows side by side, as a part of their side."""
UNIT = 32
"""Windows begin at multiples of this many pixels, so that what a model says of them lies on one grid."""
STRIPE = 256
"""Rows of an image whose answers are in memory for all classes at once."""


@dataclass(frozen=True)
class Layout:
    """How windows cover an image.

    Attributes:
        size: width and height of the image.
        scaled: what it is resized to first, in multiples of ``unit``.
        window: width and height of a window.
        unit: windows begin at multiples of it.
        places: left and top of each window.
    """

    size: tuple[int, int]
    scaled: tuple[int, int]
    window: tuple[int, int]
    unit: int
    places: tuple[tuple[int, int], ...]

    def cut(self, image: Picture, resample: Image.Resampling) -> list[Picture]:
        """The windows of an image."""
        if isinstance(image, Planes):
            bands = [self.cut(band, resample) for band in image.bands]
            return [Planes(tuple(cuts)) for cuts in zip(*bands)]
        scaled = image.resize(self.scaled, resample)
        width, height = self.window
        return [scaled.crop((left, top, left + width, top + height)) for left, top in self.places]

    def stitch(self, parts: Array) -> Array:
        """What a head says of windows (n, k, h, w) as one map of the image, (k, h', w')."""
        if len(parts) == 1:
            return np.asarray(parts[0])
        pitch = self._find_pitch(parts.shape[3], parts.shape[2])
        fine = (self.window[0] // pitch, self.window[1] // pitch)
        total = np.zeros((parts.shape[1], self.scaled[1] // pitch, self.scaled[0] // pitch), np.float32)
        times = np.zeros(total.shape[1:], np.float32)
        for (left, top), part in zip(self.places, parts):
            rows = slice(top // pitch, top // pitch + fine[1])
            columns = slice(left // pitch, left // pitch + fine[0])
            total[:, rows, columns] += np.stack(list(resize_planes(part, fine)))
            times[rows, columns] += 1
        return total / times

    def _find_pitch(self, width: int, height: int) -> int:
        """Pixels between the points of a map in which outputs of any window of such a size can lie."""
        across, down = self.window[0] / width, self.window[1] / height
        return math.gcd(int(across), self.unit) if across == down and across.is_integer() else 1


def find_layout(size: tuple[int, int], data: DataConfig, window: Window, overlap: float) -> Layout:
    """How windows cover an image of ``size``.

    Raises:
        ValueError: there would be absurdly many of them.
    """
    side = data.side(training=False)
    resize, unit = data.resize or side, math.gcd(side, UNIT)
    wanted = (resize[1], resize[0]) if isinstance(resize, tuple) else [n * resize / min(size) for n in size]
    width, height = (max(side, round(n / unit) * unit) for n in wanted)
    if width * height * 3 > MAX_VALUES:
        raise ValueError(f"{size[0]}x{size[1]} pixels become {width}x{height}, which are too many to predict")
    if window == "whole":
        return Layout(size, (width, height), (width, height), unit, ((0, 0),))
    step = max(unit, int(side * (1 - overlap) / unit) * unit)
    columns, rows = ([*range(0, length - side, step), length - side] for length in (width, height))
    places = tuple((left, top) for top in rows for left in columns)
    return Layout(size, (width, height), (side, side), unit, places)


def resize_planes(
    planes: Array, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Iterator[Array]:
    """Planes (k, h, w), or the part of them in ``box``, one after the other in another size, bilinearly."""
    for plane in planes:
        if box is None and plane.shape == (size[1], size[0]):
            yield plane
        else:
            image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
            yield np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))


def find_classes_of_pixels(logits: Array, size: tuple[int, int]) -> Array:
    """The class of each pixel of an image of ``size``, (h, w), from a map of logits (k, h', w')."""
    (k, height, width), (columns, rows) = logits.shape, size
    codes = np.empty((rows, columns), np.uint8 if k <= 256 else np.int32)
    for top in range(0, rows, STRIPE):
        bottom = min(rows, top + STRIPE)
        box = (0.0, top * height / rows, float(width), bottom * height / rows)
        codes[top:bottom] = np.stack(list(resize_planes(logits, (columns, bottom - top), box))).argmax(0)
    return codes


def find_numbers_of_pixels(numbers: Array, size: tuple[int, int]) -> Array:
    """The number of each pixel of an image of ``size``, (h, w) in float32, from a map (1, h', w')."""
    return next(resize_planes(numbers, size))


# -- a stream of images


@dataclass(frozen=True)
class PixelOutput(Output):
    """What a model gives for one image: of heads with an answer for each pixel a map, (k, h', w').

    Attributes:
        size: width and height of the image.
    """

    size: tuple[int, int] = (0, 0)


class _Cut(NamedTuple):
    """An image as the model sees it: its windows, and after them what heads of the whole image see."""

    views: Array
    layout: Layout
    has_centre: bool


@dataclass(frozen=True)
class Tiler:
    """Runs a model on images in windows.

    Attributes:
        data: what the model sees of an image.
        channels: of the model.
        run: runs it.
        dense: the heads with an answer for each pixel.
        whole: whether there are others.
        window, overlap: how windows cover an image.
        batch_size: windows that the model sees at once.
    """

    data: DataConfig
    channels: int
    run: Run
    dense: Collection[str]
    whole: bool
    window: Window = "slide"
    overlap: float = OVERLAP
    batch_size: int = BATCH

    def __post_init__(self) -> None:
        if self.data.crops > 1:
            raise ConfigError(
                f"preprocessing.crops = {self.data.crops} averages answers over parts of an image, and head "
                f"{next(iter(self.dense))!r} has an answer for each pixel: windows cover the image instead"
            )
        if self.window not in ("slide", "whole") or not 0 <= self.overlap < 1:
            raise ConfigError(
                f"window = {self.window!r}, overlap = {self.overlap}: 'slide' or 'whole', and from 0 to below 1"
            )

    def stream(self, source: Any, workers: int | None = None) -> Generator[PixelOutput, None, None]:
        """What the model gives for images, in their order, as they come.

        Raises:
            ConfigError: something is not an input, or a folder holds no images.
        """
        count = workers or count_workers()
        read = read_ahead(find_inputs(source, self.data), self.cut, 2 * count + 1, count)
        batch: list[tuple[Input, _Cut | ImageError]] = []
        waiting = 0
        for one, found in read:
            batch.append((one, found))
            waiting += 0 if isinstance(found, ImageError) else len(found.views)
            if not waiting or max(waiting, len(batch)) >= self.batch_size:  # errors do not wait for images
                yield from self._answer(batch)
                batch, waiting = [], 0
        yield from self._answer(batch)

    def cut(self, one: Input) -> _Cut:
        """Reads an image, and cuts it into what the model sees.

        Raises:
            ImageError: it cannot be read.
        """
        image = read_picture(one, self.data, self.channels)
        if isinstance(image, np.ndarray):  # which is preprocessed
            size = (image.shape[2], image.shape[1])
            return _Cut(image[None], Layout(size, size, size, 1, ((0, 0),)), False)
        see = Preprocessing(self.data)
        try:
            layout = find_layout(image.size, self.data, self.window, self.overlap)
        except ValueError as error:
            raise ImageError(Path(one.name), error) from None
        windows = layout.cut(image, RESAMPLING[self.data.interpolation])
        (view,) = see.views(image.size)
        all_of_it = view.box == (0, 0, *image.size) if view.resized is None else view.resized == layout.scaled
        centre = self.whole and not (all_of_it and len(windows) == 1 and layout.window == (view.side,) * 2)
        if centre and layout.window != (view.side, view.side):
            raise ConfigError("window = 'whole' is for models without heads that answer for the whole image")
        return _Cut(see.stack([*windows, *([view.of(image)] if centre else [])]), layout, centre)

    def _answer(self, batch: Sequence[tuple[Input, _Cut | ImageError]]) -> Iterator[PixelOutput]:
        cuts = [found for _, found in batch if not isinstance(found, ImageError)]
        outputs = iter(self._run(cuts))
        for one, found in batch:
            if isinstance(found, ImageError):
                yield PixelOutput(one, error=found.reason)
            else:
                yield self._put_together(one, found, next(outputs))

    def _put_together(self, one: Input, cut: _Cut, outputs: Mapping[str, Array]) -> PixelOutput:
        """What is said of an image, from what is said of its views (n, k) or (n, k, h, w)."""
        count = len(cut.layout.places)
        found = {
            head: cut.layout.stitch(output[:count]) if head in self.dense else output[-1]
            for head, output in outputs.items()
        }
        return PixelOutput(one, found, size=cut.layout.size)

    def _run(self, cuts: Sequence[_Cut]) -> list[dict[str, Array]]:
        """What the model gives for the views of each image; those of one shape are run together."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, cut in enumerate(cuts):
            alike.setdefault(cut.views.shape[1:], []).append(i)
        found: dict[int, dict[str, Array]] = {}
        for shape, places in alike.items():
            views = np.concatenate([cuts[i].views for i in places])
            ends = np.cumsum([len(cuts[i].views) for i in places])[:-1]
            for head, output in self._run_views(views, shape).items():
                for i, part in zip(places, np.split(output, ends)):
                    found.setdefault(i, {})[head] = part
        return [found[i] for i in range(len(cuts))]

    def _run_views(self, views: Array, shape: tuple[int, ...]) -> dict[str, Array]:
        try:
            parts = [
                self.run(views[start : start + self.batch_size, None])
                for start in range(0, len(views), self.batch_size)
            ]
        except RuntimeError as error:
            raise ConfigError(f"the model does not run on inputs of {shape}: {first_line(error)}") from error
        return {head: np.concatenate([part[head] for part in parts]) for head in parts[0]}
