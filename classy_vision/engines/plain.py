"""torch as it is: the model in the memory format in which it runs fastest."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classy_vision.engines.program import Program

NAME = "plain"
EXTRA = ""
PACKAGES = ()
DEVICES = ("cpu", "cuda", "mps", "xpu")
NEEDS_TRUST = True  # torch.export.load unpickles
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
ROUNDS = 3


def compile(program: Program) -> Torch:
    """Copies the model in the dtype that is asked for, and tries the memory formats."""
    layouts = [torch.contiguous_format, LAYOUTS.get(program.example.dim(), torch.contiguous_format)]
    tried = [Torch(convert(program, layout), layout, program) for layout in dict.fromkeys(layouts)]
    return min(tried, key=lambda run: _seconds(run, program.example)) if len(tried) > 1 else tried[0]


def convert(program: Program, layout: torch.memory_format) -> nn.Module:
    """Returns a copy of the program's module in its dtype and a memory format."""
    module = copy.deepcopy(program.module).to(getattr(torch, program.dtype))
    return module.to(memory_format=layout)  # type: ignore[call-overload]  # torch's has no name


def load(folder: Path, stem: str, threads: int) -> Torch:
    """Reads the file that ``Torch.save`` wrote; torch unpickles it."""
    return Torch(torch.export.load(folder / f"{stem}.pt2").module(), torch.contiguous_format)


class Torch:
    """A program that torch runs, compiled or not.

    Args:
        run: takes a batch, returns a tuple.
        layout: the memory format of its input.
        program: what it was made of; None where it was read from a file.
    """

    takes: Literal["torch"] = "torch"

    def __init__(self, run: Any, layout: torch.memory_format, program: Program | None = None) -> None:
        self._run = run
        self._layout = layout
        self._program = program
        parameter = next(iter(run.parameters()), torch.empty(0))
        self._dtype, self._device = parameter.dtype, parameter.device

    def __call__(self, images: Tensor) -> list[Tensor]:
        x = images.to(self._device, self._dtype, memory_format=self._layout)
        with torch.inference_mode():
            if not torch.is_autocast_enabled(self._device.type):
                return [output.to(torch.float32) for output in self._run(x)]
            with torch.autocast(self._device.type, enabled=False):  # the dtype is chosen
                return [output.to(torch.float32) for output in self._run(x)]

    def stream(self, batches: Iterable[Tensor]) -> Iterator[list[Tensor]]:
        return map(self, batches)

    def save(self, folder: Path, stem: str) -> None:
        if self._program is None:
            raise NotImplementedError("a model that was read from a file: copy the file")
        torch.export.save(self._program.exported, folder / f"{stem}.pt2")


def emulates(dtype: str) -> bool:
    """Whether the processor has no arithmetic in ``dtype``."""
    wanted = {"bfloat16": ("avx512_bf16", "amx_bf16"), "float16": ("avx512_fp16", "amx_fp16")}.get(dtype, ())
    has = torch.cpu.get_capabilities()
    return bool(wanted) and has.get("architecture") == "x86_64" and not any(has.get(name) for name in wanted)


def _seconds(run: Torch, example: Tensor) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        run(example)
        times.append(time.perf_counter() - start)
    return median(times[1:])
