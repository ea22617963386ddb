"""Features on disk: computed once, and read by every run and every probe that needs the same.

A feature of a split is a folder of shards, each there as a whole or not at all. The name of the folder is a
digest of what the feature is of, so that where anything of that changes, another folder is written. Processes
that write to the same folder share the work without waiting for each other.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classy_vision.atomic import replacing
from classy_vision.config import ConfigError
from classy_vision.errors import OperationError, system_error
from classy_vision.text import human
from classy_vision.weights.files import read_tensors, write_tensors

FOLDER, LIMIT = "CLASSY_FEATURES", "CLASSY_FEATURES_GB"
"""The environment variables that say where features are, and how many gigabytes of them there may be."""
DEFAULT_LIMIT = 50.0
SHARD_ROWS, SHARD_BYTES = 1024, 2**25
"""The most rows and about the most bytes in a shard, of which a kill loses one for each feature."""
RESERVE = 2**30
"""Bytes of the disk that are left free."""
RECENT = 3600.0
"""Seconds for which features that were used are not removed."""
AGAIN = RECENT / 10
"""Seconds after which features that are being used say so again."""
VERSION = 2
ABOUT, VALUES, ERRORS = "about.json", "values", "errors"
SAME = ("version", "trunk", "reads", "rows")
"""What features have in common where a difference between them is worth telling."""
REASONS = {
    "data": "another preprocessing ({})",
    "side": "images of {} pixels there, and of {} here",
    "chunk": "batches of {} images there, and of {} here",
    "device": "the device {} there, and {} here",
    "precision": "the precision {} there, and {} here",
    "torch": "torch {} there, and {} here",
    "library": "version {} of this library there, and {} here",
}
"""Why features are not used, by the part of what they are of that differs."""


class CacheError(OperationError):
    """Features cannot be kept on disk."""


class SpaceError(CacheError):
    """Features would take more space than there is."""


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turns what goes wrong on the disk into a CacheError."""
    try:
        yield
    except OSError as error:
        told = system_error(error, f"cannot keep features in {str(path)!r}")
        raise CacheError(str(told)) from None
    except CacheError:
        raise
    except ConfigError as error:
        raise CacheError(str(error)) from None


# -- one feature


@dataclass(frozen=True)
class StoredFeature:
    """A feature of the rows of a split, in shards.

    Attributes:
        root: the folder of all features.
        about: what the feature is of, as JSON values.
        rows: how many there are.
        size: the rows of each shard but the last.
        row_bytes: that a row takes.
    """

    root: Path
    about: Mapping[str, Any]
    rows: int
    size: int
    row_bytes: int

    @cached_property
    def folder(self) -> Path:
        """The folder of the shards."""
        return self.root / sha256(self._text.encode()).hexdigest()[:32]

    @cached_property
    def _text(self) -> str:
        said = {"version": VERSION, **self.about, "size": self.size}
        return json.dumps(said, indent=2, sort_keys=True, default=str)

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(-(-self.rows // self.size))

    def span(self, shard: int) -> range:
        """The places of the rows of a shard."""
        return range(shard * self.size, min((shard + 1) * self.size, self.rows))

    def has(self, shard: int) -> bool:
        """Whether a shard is there, and can be seen."""
        return os.path.isfile(self._file(shard))

    def count_missing(self) -> int:
        """Counts the rows of the shards that are not there."""
        return sum(len(self.span(shard)) for shard in self.shards if not self.has(shard))

    def clean(self) -> None:
        """Removes shards that are damaged, or have errors, which may have gone by; others count as used."""
        touch(self.folder)
        for shard in self.shards:
            if self.has(shard) and not self._is_useful(self._file(shard)):
                with explaining(self.folder):
                    self._file(shard).unlink(missing_ok=True)

    def find_difference(self) -> str:
        """Says why features of the same block and data that are there are not used; "" where there are none."""
        here = json.loads(self._text)
        for file in self.root.glob(f"*/{ABOUT}"):
            with suppress(OSError, ValueError, AttributeError):  # it is damaged
                there = json.loads(file.read_text(encoding="utf-8"))
                if all(there.get(key) == here.get(key) for key in SAME) and there != here:
                    return next((said for key in REASONS if (said := _explain(key, there, here))), "")
        return ""

    def begin(self) -> None:
        """Makes the folder, and says what the shards are of.

        Raises:
            CacheError: the folder cannot be written.
        """
        with explaining(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.folder / ABOUT) as beside:
                beside.write_text(self._text, encoding="utf-8")

    def write(self, shard: int, values: Tensor, errors: Mapping[int, str]) -> None:
        """Writes a shard.

        Args:
            shard: its number.
            values: (n, ...) of its rows.
            errors: messages about files that cannot be read, by place in the shard.

        Raises:
            CacheError: it cannot be written.
        """
        told = torch.tensor(list(json.dumps(errors).encode()), dtype=torch.uint8)
        if not (self.folder / ABOUT).is_file():  # features that nobody uses may be removed
            self.begin()
        with explaining(self.folder):
            write_tensors(self._file(shard), {VALUES: values, ERRORS: told}, {"format": "pt"})
        touch(self.folder)

    def open(self) -> OpenFeature:
        """Maps all shards into memory.

        Raises:
            CacheError: one of them is missing or damaged.
        """
        with explaining(self.folder):
            found = [read_tensors(self._file(shard)) for shard in self.shards]
        touch(self.folder)
        errors: dict[int, str] = {}
        for shard, tensors in enumerate(found):
            told = json.loads(bytes(tensors[ERRORS].tolist()))
            errors |= {shard * self.size + int(place): text for place, text in told.items()}
        return OpenFeature([tensors[VALUES] for tensors in found], self.size, errors, self.folder)

    def _file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:06}.safetensors"

    def _is_useful(self, file: Path) -> bool:
        try:
            found = read_tensors(file)
        except ConfigError:
            return False
        return found.keys() >= {ERRORS, VALUES} and bytes(found[ERRORS].tolist()) == b"{}"


@dataclass
class OpenFeature:
    """A feature, mapped into memory.

    Attributes:
        shards: the values of each, (n, ...).
        size: the rows of each shard but the last.
        errors: messages about files that cannot be read, by the place of their row.
        folder: in which the shards are.
    """

    shards: Sequence[Tensor]
    size: int
    errors: Mapping[int, str]
    folder: Path
    _used: float = field(default_factory=time.monotonic)

    def read(self, places: Tensor) -> Tensor:
        """Reads the rows at some places (n,); while it is read, nobody removes the feature."""
        if time.monotonic() - self._used > AGAIN:
            touch(self.folder)
            self._used = time.monotonic()
        numbers, offsets = places // self.size, places % self.size
        first = self.shards[0]
        found = first.new_empty(len(places), *first.shape[1:])
        for number in sorted(set(numbers.tolist())):
            here = numbers == number
            found[here] = self.shards[number][offsets[here]]
        return found


def find_size(chunk: int, row_bytes: int) -> int:
    """Finds how many rows a shard has: a power of two of chunks, so that shards of all features begin together.

    Args:
        chunk: the rows that are computed at once.
        row_bytes: that a row takes.
    """
    chunks = max(1, min(SHARD_ROWS, SHARD_BYTES // max(1, row_bytes)) // chunk)
    return int(chunk << (chunks.bit_length() - 1))


def touch(folder: Path) -> None:
    """Notes that features are used, where they are there and may be written."""
    with suppress(OSError):
        os.utime(folder / ABOUT)


def _explain(key: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Says how a part of what features are of differs; "" where it does not."""
    old, new = there.get(key), here.get(key)
    if old == new:
        return ""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [f"{key}.{name}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
        return REASONS[key].format(", ".join(keys))
    return REASONS[key].format(old, new)


# -- the folder of all features


def find_root() -> Path:
    """The folder of all features.

    Raises:
        CacheError: there is no home folder.
    """
    given, common = os.environ.get(FOLDER), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return (Path(given) if given else Path(common, "classy_vision", "features")).expanduser().absolute()
    except RuntimeError as error:
        raise CacheError(f"{error} {FOLDER} names a folder for the features of the frozen trunk") from None


def find_limit() -> int:
    """The bytes that all features together may take.

    Raises:
        ConfigError: the environment variable is not a number.
    """
    given = os.environ.get(LIMIT, str(DEFAULT_LIMIT))
    try:
        return int(float(given) * 1e9)
    except (ValueError, OverflowError):
        raise ConfigError(f"{LIMIT} = {given!r} is not a number of gigabytes, such as 50") from None


def make_room(root: Path, needed: int, used: Collection[Path]) -> None:
    """Removes the features that were not used for longest, until others of ``needed`` bytes fit.

    Nothing is removed where they would not fit in the end, and nothing that is not features.

    Args:
        root: of all features.
        needed: bytes.
        used: folders that are kept.

    Raises:
        SpaceError: there is not enough.
    """
    if not needed:
        return
    root.mkdir(parents=True, exist_ok=True)
    limit, sizes = find_limit(), {path: _measure(path) for path in root.iterdir() if _is_features(path)}
    total, removed = sum(sizes.values()) + needed, []
    for last, path in sorted((_last_use(path), path) for path in sizes if path not in used):
        if total > limit and time.time() - last > RECENT:
            removed.append(path)
            total -= sizes[path]
    if total > limit:
        raise SpaceError(
            f"the features of the frozen trunk take {human(needed)}B, and those of other runs "
            f"{human(total - needed)}B; {LIMIT} allows {human(limit)}B in all"
        )
    free = shutil.disk_usage(root).free + sum(map(sizes.__getitem__, removed))
    if needed + RESERVE > free:
        raise SpaceError(
            f"the features of the frozen trunk take {human(needed)}B, and {human(free)}B are free at "
            f"{str(root)!r}; {FOLDER} names another folder"
        )
    for path in removed:
        shutil.rmtree(path, ignore_errors=True)


def _is_features(path: Path) -> bool:
    """Whether a folder is one of features, by its name."""
    return re.fullmatch(r"[0-9a-f]{32}", path.name) is not None and path.is_dir()


def _measure(folder: Path) -> int:
    """The bytes of the files in a folder, some of which may vanish meanwhile."""
    total = 0
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                total += path.stat().st_size
    return total


def _last_use(folder: Path) -> float:
    """When features were used last, in seconds since 1970; 0 where nobody can use them."""
    try:
        return (folder / ABOUT).stat().st_mtime
    except OSError:
        return 0.0
