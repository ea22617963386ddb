"""torch's compiler: inductor with the weights frozen into the code; on CUDA, with CUDA graphs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from classy_vision.engines.compiled import Files
from classy_vision.engines.plain import LAYOUTS, Plain
from classy_vision.engines.program import Program


class Inductor(Plain):
    """A module that inductor has compiled."""

    name = "torch"
    devices = ("cpu", "cuda", "xpu")
    needs_trust = True  # a shared library runs

    @classmethod
    def compile(cls, program: Program) -> Plain:
        """Compiles the model; takes 20 to 100 seconds for networks of 50 to 300 layers."""
        compiled = cls._convert(program, LAYOUTS.get(program.example.dim(), torch.contiguous_format))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's, about its own parts
            compiled.run(program.example)
        return compiled

    @classmethod
    def wrap(cls, module: nn.Module, program: Program) -> Callable[[Tensor], Any]:
        """Returns the module as torch.compile gives it."""
        return torch.compile(module, fullgraph=True, **choose_options(program.example.device))

    @classmethod
    def load(cls, files: Files, **options: Any) -> Plain:
        """Loads the file that ``save`` wrote: a shared library, which runs.

        Raises:
            RuntimeError: the file is damaged, or for another machine.
        """
        import torch._inductor  # the underscore notwithstanding, this is where torch's documentation has it

        compiled = torch._inductor.aoti_load_package(io.BytesIO(files["pt2"]))
        return Plain(compiled, device=torch.device(compiled.get_metadata().get("AOTI_DEVICE_KEY", "cpu")))

    def run(self, images: Tensor) -> list[Tensor]:
        outputs = super().run(images)
        # A CUDA graph writes to the same memory in every call.
        return [output.clone() for output in outputs] if self._device.type == "cuda" else outputs

    def save(self, path: Path) -> None:
        assert self._export is not None
        write_package(self._export(), path.with_suffix(".pt2"))


def choose_options(device: torch.device) -> dict[str, Any]:
    """Returns what torch.compile is told for a device; for CUDA it is not measured yet."""
    return {"mode": "reduce-overhead"} if device.type == "cuda" else {"options": {"freezing": True}}


def write_package(exported: ExportedProgram, path: Path, **settings: Any) -> None:
    """Compiles a program to a package of AOTInductor with its weights as constants; needs a C++ compiler."""
    import torch._inductor

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the compiler's, about its own parts
        torch._inductor.aoti_compile_and_package(
            exported, package_path=str(path), inductor_configs={"freezing": True, **settings}
        )
