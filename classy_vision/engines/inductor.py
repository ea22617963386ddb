"""torch's compiler: inductor with the weights frozen into the code; on CUDA, with CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from classy_vision.engines.plain import LAYOUTS, Torch, convert, emulates
from classy_vision.engines.program import Program

__all__ = ["compile", "emulates", "load"]

NAME = "torch"
EXTRA = ""
PACKAGES = ()
DEVICES = ("cpu", "cuda", "xpu")
NEEDS_TRUST = True  # a shared library runs


def compile(program: Program) -> Inductor:
    """Compiles the model; takes 20 to 100 seconds for networks of 50 to 300 layers."""
    layout = LAYOUTS.get(program.example.dim(), torch.contiguous_format)
    run = torch.compile(convert(program, layout), fullgraph=True, **options(program.example.device))
    compiled = Inductor(run, layout, program)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's, about its own parts
        compiled(program.example)
    return compiled


def options(device: torch.device) -> dict[str, Any]:
    """Returns what torch.compile is told for a device; for CUDA it is not measured yet."""
    return {"mode": "reduce-overhead"} if device.type == "cuda" else {"options": {"freezing": True}}


def load(folder: Path, stem: str, threads: int) -> Package:
    """Reads the file that ``Inductor.save`` wrote: a shared library, which runs."""
    return Package(folder / f"{stem}.pt2")


class Inductor(Torch):
    """A program that inductor has compiled."""

    def __call__(self, images: Tensor) -> list[Tensor]:
        found = super().__call__(images)
        # A CUDA graph writes to the same memory in every call.
        return [output.clone() for output in found] if self._device.type == "cuda" else found

    def save(self, folder: Path, stem: str) -> None:
        if self._program is None:
            raise NotImplementedError("a model that was read from a file: copy the file")
        package(self._program.exported, folder / f"{stem}.pt2")


class Package:
    """A package of AOTInductor.

    Raises:
        RuntimeError: the file is damaged, or for another machine.
    """

    takes: Literal["torch"] = "torch"

    def __init__(self, path: Path) -> None:
        import torch._inductor

        self._path = path
        self._run = torch._inductor.aoti_load_package(str(path))

    def __call__(self, images: Tensor) -> list[Tensor]:
        with torch.inference_mode():
            outputs = self._run(images.contiguous())
        return [outputs] if isinstance(outputs, Tensor) else [*getattr(outputs, "values", lambda: outputs)()]

    def stream(self, batches: Iterable[Tensor]) -> Iterator[list[Tensor]]:
        return map(self, batches)

    def save(self, folder: Path, stem: str) -> None:
        (folder / f"{stem}.pt2").write_bytes(self._path.read_bytes())


def package(exported: torch.export.ExportedProgram, path: Path, **settings: Any) -> None:
    """Compiles a program to a package of AOTInductor with its weights as constants; needs a C++ compiler."""
    import torch._inductor

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the compiler's, about its own parts
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(path), inductor_configs={"freezing": True, **settings}
        )
