"""torch as it is: the model in the memory format in which it runs fastest."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from classy_vision.engines.compiled import Compiled, Files
from classy_vision.engines.program import Cast, Program, clock, flatten, trace

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
ROUNDS, SECONDS = 3, 0.5
"""Memory formats are compared by so many calls each, or as many as fit into the time; one at least."""


class Plain(Compiled):
    """A function of torch.

    Args:
        function: from a batch in float32 to a tensor, or several in a sequence or by name.
        layout: the memory format of its input.
        export: gives it as a program that can be saved; None where it was read from a file.
        device: that it runs on; by default the one of its parameters, or the CPU.
    """

    name = "plain"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda", "mps", "xpu")
    needs_trust = True  # torch.export.load unpickles
    takes = "torch"

    def __init__(
        self,
        function: Callable[[Tensor], Any],
        layout: torch.memory_format = torch.contiguous_format,
        export: Callable[[], ExportedProgram] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._function = function
        self._layout = layout
        self._export = export
        parameter = next(function.parameters(), None) if isinstance(function, nn.Module) else None
        self._device = device or (torch.device("cpu") if parameter is None else parameter.device)

    @classmethod
    def compile(cls, program: Program) -> Plain:
        """Copies the model in the dtype that is asked for, and tries the memory formats."""
        layouts = [torch.contiguous_format, LAYOUTS.get(program.example.dim(), torch.contiguous_format)]
        tried = [cls._convert(program, layout) for layout in dict.fromkeys(layouts)]
        return min(tried, key=lambda one: one._measure(program.example)) if len(tried) > 1 else tried[0]

    @classmethod
    def _convert(cls, program: Program, layout: torch.memory_format) -> Plain:
        module: nn.Module = (
            Cast(program.module, program.dtype) if program.dtype != "float32" else program.module
        )
        twin = copy.deepcopy(module).to(memory_format=layout)  # type: ignore[call-overload]  # torch's has no name
        return cls(cls.wrap(twin, program), layout, lambda: trace(module, program.example))

    @classmethod
    def wrap(cls, module: nn.Module, program: Program) -> Callable[[Tensor], Any]:
        """Returns what runs a module."""
        return module

    @classmethod
    def load(cls, files: Files, **options: Any) -> Plain:
        """Loads the file that ``save`` wrote; torch unpickles it."""
        return Plain(torch.export.load(io.BytesIO(files["pt2"])).module())

    def run(self, images: Tensor) -> list[Tensor]:
        x = images.to(self._device, memory_format=self._layout)
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):  # the dtype is chosen
            return flatten(self._function(x))

    def save(self, path: Path) -> None:
        assert self._export is not None
        torch.export.save(self._export(), path.with_suffix(".pt2"))

    def _measure(self, example: Tensor) -> float:
        """Returns the seconds of a call, the fewest of several."""
        self.run(example)  # warms up
        times: list[float] = []
        while len(times) < ROUNDS and sum(times) < SECONDS:
            times.append(clock(lambda: self.run(example), example.device))
        return min(times)
