"""Packages of AOTInductor: a shared library for this kind of processor, with the weights in it."""

from __future__ import annotations

import json
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, first_line
from classy_vision.engines.inductor import Package, package
from classy_vision.export.exported_program import trace
from classy_vision.export.formats import UNREADABLE, Loaded, Request, check_trust
from classy_vision.export.metadata import KEY, MAX_METADATA, parse_metadata


def save(request: Request, path: Path) -> None:
    """Compiles the model, with its weights as constants; needs a C++ compiler.

    Raises:
        ConfigError: it cannot be traced.
    """
    program = trace(request)
    if request.int8 is not None:
        from classy_vision.export.int8 import quantize_program

        program = quantize_program(program, request)
    metadata: dict[str, Any] = {"aot_inductor.metadata": {KEY: request.metadata.dump()}}
    package(program, path, **metadata)


def load(path: Path, trust: bool) -> Loaded:
    """Loads the shared library.

    Raises:
        ConfigError: it is not trusted, is damaged, or is from another tool or for another machine.
    """
    metadata = parse_metadata(_read_metadata(path), str(path))
    check_trust(path, trust, "is an AOTInductor package, and loading it runs the machine code in it")
    try:
        return Loaded(metadata, Package(path))
    except Exception as error:  # torch's, of several kinds
        reason = first_line(error)
        raise ConfigError(f"{str(path)!r} is damaged or for another machine: {reason}") from None


def _read_metadata(path: Path) -> str | None:
    """Reads the metadata without loading the library."""
    with suppress(*UNREADABLE), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith("wrapper_metadata.json") and info.file_size <= 2 * MAX_METADATA:
                return str(json.loads(archive.read(info))[KEY])
    return None
