"""Writing files and folders: what stands at a path is whole, and stays until the new one is.

A file is written beside its place and renamed, so that a crash leaves the old one.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from classy_vision.errors import FAILURES, ConfigError, system_error, unknown


def check_target(path: Path, suffixes: Collection[str] = (), *, force: bool, option: str = "") -> None:
    """Raises if a file cannot be written to ``path``, before there is something to write.

    Args:
        path: of the file.
        suffixes: its name has one of them, if any are given.
        force: replace a file that exists.
        option: that the path was given by, for the message.

    Raises:
        ConfigError: the suffix is not allowed, the folder does not exist, or the path exists.
    """
    where = f"{option} {path}".strip()
    if suffixes and path.suffix not in suffixes:
        raise unknown("ending", path.suffix or path.name, suffixes, where)
    if not path.parent.is_dir():
        raise ConfigError(f"{where}: there is no folder {str(path.parent)!r}")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{where} exists and is not a file")
    if os.path.lexists(path) and not force:  # also a link whose target was removed
        raise ConfigError(f"{where} exists: --force replaces it")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to, and moves the file into place if nothing failed.

    If anything fails, nothing is left beside it.

    Raises:
        OperationError: the disk is full, or fails.
        ConfigError: it cannot be written there.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        beside.chmod(0o666 & ~_umask())  # some writers make private files
        os.replace(beside, path)
    except Exception as error:
        if isinstance(error, ConfigError) or (cause := system_cause(error)) is None:
            raise
        raise system_error(cause, f"cannot write {str(path)!r}") from error
    finally:
        with suppress(OSError):  # the first error is the one to report
            beside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Gives a folder beside ``path`` to fill, and moves it into place if nothing failed.

    Raises:
        OperationError: the disk is full, or fails.
        ConfigError: it cannot be written there.
    """
    place = path.absolute()
    new, old = (place.with_name(f".{place.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        if place.exists():
            os.replace(place, old)
        os.replace(new, place)
    except OSError as error:
        raise system_error(error, f"cannot write {str(path)!r}") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not place.exists():
            os.replace(old, place)
        shutil.rmtree(old, ignore_errors=True)


def system_cause(error: BaseException) -> OSError | None:
    """Returns the system's error that made a writer fail; the error of torch's writer does not contain it."""
    if isinstance(error, OSError):
        return error
    cause: BaseException | None = error
    while cause is not None and getattr(cause, "errno", None) not in FAILURES:
        if isinstance(cause, SafetensorError) and (found := re.search(r"os error (\d+)", str(cause))):
            return OSError(int(found[1]), os.strerror(int(found[1])))
        cause = cause.__cause__ or cause.__context__
    return cause if isinstance(cause, OSError) else None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
