"""Packages of AOTInductor: a shared library for this kind of processor, with the weights in it."""

from __future__ import annotations

import json
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classy_vision.config import ConfigError, first_line
from classy_vision.export.exported_program import trace
from classy_vision.export.formats import UNREADABLE, Loaded, Request, check_trust
from classy_vision.export.metadata import KEY, MAX_METADATA, parse_metadata

MODEL = "model"
"""The name of the model in a package."""


def save(request: Request, path: Path) -> None:
    """Compiles the model, with its weights as constants; needs a C++ compiler.

    Raises:
        ConfigError: it cannot be traced.
    """
    import torch._inductor

    program = trace(request)
    if request.calibration is not None:
        from classy_vision.export.int8 import quantize_program

        program = quantize_program(program, request)
    options: dict[str, Any] = {"freezing": True, "aot_inductor.metadata": {KEY: request.metadata.dump()}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the compiler's own parts
        torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def load(path: Path, trust: bool) -> Loaded:
    """Loads the shared library.

    Raises:
        ConfigError: it is not trusted, is damaged, or is from another tool or for another machine.
    """
    metadata = parse_metadata(_metadata(path), str(path))
    check_trust(path, trust, "is an AOTInductor package, and loading it runs the machine code in it")
    try:
        # torch._inductor.aoti_load_package, which imports the compiler first
        loader = torch._C._aoti.AOTIModelPackageLoader(str(path), MODEL, False, 1, -1)
    except RuntimeError as error:
        reason = first_line(error)
        raise ConfigError(f"{str(path)!r} is damaged or for another machine: {reason}") from None

    @torch.inference_mode()
    def run(images: Tensor) -> list[Tensor]:
        outputs: list[Tensor] = loader.boxed_run([images.contiguous()])
        return outputs

    return Loaded(metadata, run, "torch")


def _metadata(path: Path) -> str | None:
    """Reads the metadata without loading the library."""
    with suppress(*UNREADABLE), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith("wrapper_metadata.json") and info.file_size <= 2 * MAX_METADATA:
                return str(json.loads(archive.read(info))[KEY])
    return None
