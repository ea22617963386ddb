"""Optimized models as files: an archive of what the engine reads, and of what the outputs are called."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from classy_vision.config import ConfigError, first_line
from classy_vision.data.files import count_processors
from classy_vision.engines.engine import check_installed, find_engine
from classy_vision.engines.optimized import ABOUT, About, Optimized, Running

MAX_ABOUT = 1 << 20
ENDINGS = ("xml", "bin", "txt", "onnx", "pt2")


def load_optimized(path: str | Path, *, threads: int | None = None, trust: bool = False) -> Optimized:
    """Reads a file that ``Optimized.save`` wrote.

    Args:
        path: of the file.
        threads: of the processor, for one call; by default all that this process may use.
        trust: read a file of the engines "torch" and "plain", which can run any code.

    Raises:
        ConfigError: there is no such file, it is damaged, its engine is not installed, or it takes ``trust``.
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}")
    try:
        with zipfile.ZipFile(path) as archive, TemporaryDirectory() as folder:
            about = _read_about(archive)
            engine = find_engine(about.engine)
            check_installed(engine)
            if engine.NEEDS_TRUST and not trust:
                raise ConfigError(
                    f"it is for the engine {about.engine!r}, and reading it can run code that is in it: "
                    f"pass trust=True if you know where it comes from"
                )
            _extract(archive, len(about.parts), Path(folder))
            running = [
                Running(part, engine.load(Path(folder), f"program{i}", threads or count_processors()))
                for i, part in enumerate(about.parts)
            ]
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error}") from None
    except Exception as error:  # of zipfile, and of what the engines stumble over
        reason = first_line(error)[:300]
        raise ConfigError(f"{str(path)!r} is damaged, or not an optimized model: {reason}") from None
    return Optimized(about, running)


def _read_about(archive: zipfile.ZipFile) -> About:
    if archive.getinfo(ABOUT).file_size > MAX_ABOUT:
        raise ConfigError(f"{ABOUT} is too large")
    about = About.model_validate_json(archive.read(ABOUT))
    if not about.parts or any(len(part.names) != len(part.places) for part in about.parts):
        raise ConfigError("it is damaged: it does not say what it gives")
    return about


def _extract(archive: zipfile.ZipFile, count: int, folder: Path) -> None:
    """Writes the files of the programs, and no others, under names of ours."""
    held = set(archive.namelist())
    for name in (f"program{i}.{ending}" for i in range(count) for ending in ENDINGS):
        if name in held:
            (folder / name).write_bytes(archive.read(name))
