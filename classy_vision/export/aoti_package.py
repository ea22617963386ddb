"""Packages of AOTInductor: a shared library for this kind of processor, with the weights in it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, first_line
from classy_vision.engines.inductor import load_package, write_package
from classy_vision.export.exported_program import trace
from classy_vision.export.formats import UNREADABLE, Loaded, Request, check_trust, read_archived
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
    write_package(program, path, **metadata)


def load(path: Path, trust: bool) -> Loaded:
    """Loads the shared library.

    Raises:
        ConfigError: it is not trusted, is damaged, or is from another tool or for another machine.
    """
    said = read_archived(path, "wrapper_metadata.json", 2 * MAX_METADATA)
    metadata = parse_metadata(_unwrap(said), str(path))
    check_trust(path, trust, "is an AOTInductor package, and loading it runs the machine code in it")
    try:
        return metadata, load_package(path)
    except Exception as error:  # torch's, of several kinds
        reason = first_line(error)
        raise ConfigError(f"{str(path)!r} is damaged or for another machine: {reason}") from None


def _unwrap(said: bytes | None) -> str | None:
    with suppress(*UNREADABLE):
        return str(json.loads(said or b"")[KEY])
    return None
