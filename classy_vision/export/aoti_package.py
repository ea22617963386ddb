"""Packages of AOTInductor: a shared library for this kind of processor, with the weights in it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from classy_vision.engines.archive import map_file
from classy_vision.engines.inductor import Inductor, write_package
from classy_vision.export.exported_program import trace
from classy_vision.export.formats import Loaded, Request, check_trust, read_archived
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
        ConfigError: it is not trusted, or is from another tool.
    """
    found: Any = read_archived(path, "wrapper_metadata.json", 2 * MAX_METADATA)
    with suppress(Exception):
        found = str(json.loads(found or b"")[KEY])
    metadata = parse_metadata(found, str(path))
    check_trust(path, trust, "is an AOTInductor package, and loading it runs the machine code in it")
    return metadata, Inductor.load({"pt2": map_file(path)})
