"""What is said of files, and which files are meant. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from classy_vision.errors import ConfigError
from classy_vision.train.sources import SUFFIXES

Score = tuple[str, float | None]
"""A label and its probability; a number has none."""


@dataclass(frozen=True)
class Prediction:
    """What is said of one file.

    Attributes:
        image: its path, also of a video.
        scores: by head, the likeliest first.
        error: why there are none.
    """

    image: str
    scores: Mapping[str, Sequence[Score]] = field(default_factory=dict)
    error: str | None = None


def find_images(arguments: Iterable[str], unit: str = "image") -> list[str]:
    """Files as they are; a folder stands for the images in it, in order.

    Args:
        arguments: files and folders.
        unit: what a folder stands for, "image" or "video".

    Raises:
        ConfigError: an empty name, or a folder without images.
    """
    found: list[str] = []
    for argument in arguments:
        if not argument:
            raise ConfigError(f"a file or folder of {unit}s is needed, not ''")
        path = Path(argument)
        inside = [str(p) for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES[unit]]
        if path.is_dir() and not inside:
            raise ConfigError(f"there is no {unit} in the folder {argument!r}")
        found += inside if path.is_dir() else [argument]
    return found
