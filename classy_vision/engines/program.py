"""What an engine compiles: the part of a model that some outputs need."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, first_line
from classy_vision.models.classy_model import ClassyModel

TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 1e-2}
"""The dtypes of arithmetic, and how far an output may be off by default, relative to its largest value."""
MAX_BATCH = 1 << 16


class Reading(nn.Module):
    """A model that returns a tuple: its outputs in order, or the features of ``blocks``.

    A tensor that is read by several names is there once, because engines do not write one value to two places.
    Blocks after the deepest one that is read are not in what is traced of it.
    """

    def __init__(self, model: nn.Module, blocks: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.model = model
        self.blocks = blocks
        self.train(model.training)  # torch's exporters put a module, and all in it, back to what it says itself

    def read(self, x: Tensor) -> Mapping[str, Tensor]:
        """Returns the outputs by name; an output without a name is called ""."""
        if self.blocks is not None:
            assert isinstance(self.model, ClassyModel)
            return self.model.features(x, self.blocks)
        outputs = self.model(x)
        return outputs if isinstance(outputs, Mapping) else {"": outputs}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        # An engine does not give its input back: an output that is the input is copied.
        return tuple(t.clone() if t is x else t for t in {id(t): t for t in self.read(x).values()}.values())


class Cast(nn.Module):
    """A copy of a module that computes in another dtype; inputs and outputs stay what they are."""

    def __init__(self, module: nn.Module, dtype: str) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(getattr(torch, dtype))
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.train(module.training)

    def forward(self, x: Tensor) -> Any:
        outputs = self.module(x.to(self.dtype))
        if isinstance(outputs, Tensor):
            return self._back(outputs)
        if isinstance(outputs, Mapping):
            return {name: self._back(output) for name, output in outputs.items()}
        return tuple(map(self._back, outputs))

    def _back(self, output: Tensor) -> Tensor:
        return output.float() if output.dtype == self.dtype else output


@dataclass(frozen=True)
class Program:
    """A part of a model, ready to be compiled.

    Attributes:
        module: takes a batch, returns a tuple of tensors; in evaluation mode.
        example: an input batch.
        dtype: of the arithmetic: "float32", "bfloat16" or "float16".
        threads: of the processor, for one call.
        cache_dir: a folder for what OpenVINO compiles.
        seconds: that the model takes for the example.
    """

    module: Reading
    example: Tensor
    dtype: str
    threads: int
    cache_dir: str | Path | None = None
    seconds: float = 0.0

    @cached_property
    def exported(self) -> torch.export.ExportedProgram:
        """As torch.export gives it, for any batch size and the example's other sizes.

        Raises:
            ConfigError: the model cannot be exported.
        """
        try:
            return trace(self.module, self.example)
        except Exception as error:  # of many kinds, of torch's and of the model's
            name = type(self.module.model).__name__
            raise ConfigError(f"{name} cannot be exported: {first_line(error)[:300]}") from error

    @cached_property
    def reference(self) -> tuple[dict[str, int], list[Tensor]]:
        """What the model itself gives for the example: the place of each output by name, and the outputs.

        A tensor that has several names is there once; an output without a name is called "".

        Raises:
            ConfigError: the model does not run, or gives something else than finite tensors.
        """
        try:
            with torch.inference_mode():
                outputs = self.module.read(self.example)
        except (ValueError, TypeError):
            raise
        except Exception as error:  # of whatever a module does
            shape, reason = tuple(self.example.shape), first_line(error)
            raise ConfigError(f"the model does not run on an example of shape {shape}: {reason}") from error
        for name, output in outputs.items():
            where = f"the output {name!r}" if name else "the output"
            if not isinstance(output, Tensor):
                raise ConfigError(f"{where} of the model is a {type(output).__name__}: a tensor is needed")
            if not output.isfinite().all():
                raise ConfigError(f"{where} of the model itself is not finite: nothing can be compared")
        unique = {id(output): output for output in outputs.values()}
        places = {name: [*unique].index(id(output)) for name, output in outputs.items()}
        return places, [*unique.values()]


def trace(
    module: nn.Module, example: Tensor, free: Sequence[int] = (), max_batch: int = MAX_BATCH
) -> torch.export.ExportedProgram:
    """Exports a module for any batch size, and any size of the axes ``free``."""
    if len(example) == 1:  # torch takes 1 for a constant
        example = example.repeat_interleave(2, 0)
    sizes: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=max_batch)}
    sizes |= dict.fromkeys(free, torch.export.Dim.DYNAMIC)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about its own parts
        return torch.export.export(module, (example,), dynamic_shapes=(sizes,))


def clock(call: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds of a call, with what it started on ``device``."""
    start = time.perf_counter()
    call()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start


def flatten(outputs: Any) -> list[Tensor]:
    """Returns the tensors of a model's outputs."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [*(outputs.values() if isinstance(outputs, Mapping) else outputs)]


def measure_difference(given: Tensor, wanted: Tensor) -> float:
    """Returns the largest difference, relative to the largest value."""
    if given.shape != wanted.shape or not given.isfinite().all():
        return math.inf
    scale = wanted.double().abs().max().item() or 1.0
    return (given.to(wanted.device).double() - wanted.double()).abs().max().item() / scale


def check_tolerance(tolerance: float | None) -> None:
    """Raises where ``tolerance`` is given and is not a finite number above 0.

    Raises:
        ConfigError: it is not.
    """
    if tolerance is not None and not (isinstance(tolerance, (int, float)) and 0 < tolerance < math.inf):
        raise ConfigError(f"tolerance = {tolerance!r}: give a number above 0, such as 0.001")
