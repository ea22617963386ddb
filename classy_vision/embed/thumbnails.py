"""The files of embeddings: where they are now, which are the same, and small pictures of them."""

from __future__ import annotations

import io
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from classy_vision.config import ConfigError, shown
from classy_vision.data.files import VIDEOS, count_workers
from classy_vision.data.images import (
    MAX_PIXELS,
    UNREADABLE,
    ImageError,
    count_channels,
    open_header,
    open_image,
)
from classy_vision.embed.folder import LISTING
from classy_vision.embed.sources import Part, Sample, open_source
from classy_vision.embed.stored import Embeddings

SIDE = 128
"""Pixels along the longer side of a small picture, which takes about 4 KB."""
QUALITY = 80
PARTS = ("tar", "hugging face")
"""Kinds of sources whose rows are parts of files; those of others are files."""

Place = Path | Part | bytes
"""Where the bytes of an image are."""
Mark = Path | Part | tuple[int, bytes]
"""What tells whether bytes are the same: where they are, or how many there are and their digest."""


class Files:
    """The files that embeddings are of.

    Attributes:
        stored: the embeddings.
    """

    def __init__(self, stored: Embeddings) -> None:
        self.stored = stored
        self._source = stored.manifest["source"]
        self._root = Path(str(self._source.get("name", "")))

    @cached_property
    def paths(self) -> list[str]:
        """Where the images were, as they are stored."""
        return [path or "" for path in self.stored.column("path")]

    def find(self, word: str) -> int | None:
        """Finds the first row with an id or a path; a path may be written in another way."""
        for names in (self.stored.ids, self.paths):
            if word in names:
                return names.index(word)
        wanted, name = os.path.abspath(os.path.expanduser(word)), os.path.basename(word)
        alike = (row for row, path in enumerate(self.paths) if os.path.basename(path) == name)
        return next((row for row in alike if os.path.abspath(self.locate(row)) == wanted), None)

    def locate(self, row: int) -> Path:
        """Finds the file of a row, also from another working folder than it was embedded from."""
        path = Path(self.paths[row])
        if path.is_absolute():
            return path
        roots = (self._root, *self._root.parents) if self._root.is_absolute() else ()
        return next((file for root in roots if (file := root / path).is_file()), path)

    def walk(self, rows: Iterable[int]) -> Iterator[tuple[int, Place]]:
        """Finds where the bytes of images are, as far as they are there.

        Raises:
            ConfigError: none of them is: the source is not there any more, has changed, or cannot be read.
        """
        if self._source.get("kind") in PARTS:
            yield from self._walk_parts(set(rows))
        else:
            yield from ((row, self.locate(row)) for row in rows if self.paths[row])

    def _walk_parts(self, rows: set[int]) -> Iterator[tuple[int, Place]]:
        """Goes through the shards of a source that is not one file for each image."""
        parts = self.stored.manifest["shards"]
        ends = [*accumulate(part["rows"] for part in parts)]
        size, ids = self.stored.manifest["shard_size"], self.stored.ids
        source = open_source(self._source["name"], "image", Path(LISTING), size)
        if source.fingerprint != self._source.get("fingerprint"):
            raise ConfigError(f"{shown(self._source['name'])} has changed since it was embedded")
        for shard, (part, end) in enumerate(zip(parts, ends)):
            wanted = {ids[row]: row for row in range(end - part["rows"], end) if row in rows}
            if not wanted:
                continue
            for sample in source.read(shard):
                if sample.name in wanted and (place := _find_place(sample)) is not None:
                    yield wanted.pop(sample.name), place


def _find_place(sample: Sample) -> Place | None:
    return sample.source if isinstance(sample.source, (Path, Part, bytes)) else None


# -- the same bytes


def find_copies(files: Files, groups: Sequence[Sequence[int]]) -> dict[int, int]:
    """Finds the rows of groups whose bytes are those of an earlier row of the group, and that row.

    Where the files are not there any more, none is found.
    """
    try:
        marks = {row: _mark(place) for row, place in files.walk(row for group in groups for row in group)}
    except ConfigError:
        return {}
    found: dict[int, int] = {}
    for group in groups:
        for rows in _sort_by(_measure, [(row, marks[row]) for row in group if row in marks]):
            for same in _sort_by(_digest, rows) if len(rows) > 1 else ():
                found |= {row: same[0][0] for row, _ in same[1:]}
    return found


def _mark(place: Place) -> Mark:
    """Keeps no bytes: those of all groups would not fit into memory."""
    return (len(place), sha256(place).digest()) if isinstance(place, bytes) else place


def _sort_by(key: Any, rows: Sequence[tuple[int, Mark]]) -> list[list[tuple[int, Mark]]]:
    """Puts rows with the same key together; those without one are left out."""
    found = defaultdict[Any, list[tuple[int, Mark]]](list)
    for row, mark in rows:
        if (value := key(mark)) is not None:
            found[value].append((row, mark))
    return [*found.values()]


def _measure(mark: Mark) -> int | None:
    if isinstance(mark, tuple):
        return mark[0]
    try:
        return mark.size if isinstance(mark, Part) else mark.stat().st_size
    except OSError:
        return None


def _digest(mark: Mark) -> bytes | None:
    if isinstance(mark, tuple):
        return mark[1]
    try:
        return sha256(_read(mark)).digest()
    except OSError:
        return None


def _read(place: Place) -> bytes:
    if isinstance(place, bytes):
        return place
    return place.read_bytes() if isinstance(place, Path) else place.read()


# -- small pictures


def make_thumbnails(files: Files, rows: Iterable[int]) -> dict[int, bytes | str]:
    """Makes a small JPEG of each row; where that fails, gives the reason.

    Of a video it is the frame in the middle.
    """
    rows = [*dict.fromkeys(rows)]
    try:
        places = dict(files.walk(rows))
    except ConfigError as error:
        return dict.fromkeys(rows, str(error))
    with ThreadPoolExecutor(count_workers()) as pool:
        made = pool.map(make_thumbnail, (places.get(row) for row in rows))
        return dict(zip(rows, made))


def make_thumbnail(place: Place | None) -> bytes | str:
    """Makes a small JPEG of an image or of the middle of a video; gives the reason where that fails."""
    if place is None:
        return "no file"
    try:
        picture = _open(place)
        picture.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=QUALITY)
        return file.getvalue()
    except ImageError as error:
        return error.reason
    except UNREADABLE as error:
        return str(error) or type(error).__name__


def _open(place: Place) -> Image.Image:
    """Opens an image, upright and of no more pixels than are needed."""
    if not isinstance(place, Path):
        image = open_header(io.BytesIO(_read(place)), MAX_PIXELS)
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        found = open_image(ImageOps.exif_transpose(image), 3)
    elif place.suffix.lower() in VIDEOS:
        return _open_video(place)
    elif (many := count_channels(place) or 3) > 4 or many == 2:
        found = open_image(place, many, value_range="auto")
    else:
        found = open_image(place, 3, reduction=lambda size: min(size) / SIDE)
    return found if isinstance(found, Image.Image) else found.show()


def _open_video(file: Path) -> Image.Image:
    try:
        from classy_vision.data.videos import Video, read_video
    except ModuleNotFoundError:
        raise ImageError(file, "videos need: pip install 'classy-vision-models[video]'") from None

    def read(video: Video) -> Image.Image:
        return next(video.frames([Fraction(video.duration) / 2]))

    return read_video(file, read)
