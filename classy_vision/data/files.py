"""Which files are meant: of folders the images or the videos in them, by their suffixes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from classy_vision.errors import ConfigError

IMAGES = (
    *(".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
VIDEOS = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
SUFFIXES: dict[str, frozenset[str]] = {"image": frozenset(IMAGES), "video": frozenset(VIDEOS)}
TABLES = (".csv", ".parquet")
EXPORTS = (".onnx", ".pt2", ".safetensors", ".xml")
"""Of exported models."""


def find_images(arguments: Iterable[str], unit: str = "image") -> list[str]:
    """Files as they are; a folder stands for the images in it, in order.

    Args:
        arguments: files and folders.
        unit: what a folder stands for, "image" or "video".

    Raises:
        ConfigError: an empty name, or a folder without images.
    """
    return [path for argument in arguments for path in walk(argument, unit)]


def walk(argument: str | Path, unit: str) -> Iterator[str]:
    """A file as it is; the images or videos in a folder, in order. Links to folders are followed.

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


def hash_file(path: Path) -> str:
    """Hashes what is in a file, by SHA-256, in hexadecimal digits."""
    sha = sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            sha.update(chunk)
    return sha.hexdigest()


def describe_file(path: bytes | str) -> str:
    """Describes a file so that a change of it is seen: its size and time."""
    try:
        found = os.stat(path)
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


def _files(folder: str, suffixes: Iterable[str], above: tuple[str, ...] = ()) -> Iterator[str]:
    above = (*above, folder)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            if not (entry.is_symlink() and _leads_back(entry.path, above)):
                yield from _files(entry.path, suffixes, above)
        elif os.path.splitext(entry.name)[1].lower() in suffixes:
            yield entry.path


def _leads_back(link: str, above: Iterable[str]) -> bool:
    """Whether a link is to a folder that it is in: following it would never end."""
    return any(os.path.samefile(link, folder) for folder in above)


def count_processors() -> int:
    """Counts the processors that this process may use, which a container may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def count_workers() -> int:
    """Counts the workers that read files where nobody says how many: one per processor, at most 4."""
    return min(4, count_processors())
