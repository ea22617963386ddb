"""Models into files that other programs run, each read back and compared before it is left behind."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from classy_vision.config import ConfigError, system_error
from classy_vision.cost.memory import in_mode
from classy_vision.export.arguments import (
    check_arguments,
    check_model,
    check_preprocessing,
    free_shape,
    names_of,
    read_example,
    reason_of,
)
from classy_vision.export.exported_model import ExportedModel, load_exported
from classy_vision.export.formats import FORMATS, Format, Int8, Request, Scores
from classy_vision.export.metadata import Head, Metadata
from classy_vision.export.verify import compare, measure
from classy_vision.hub.describe import describe
from classy_vision.weights.files import system_cause

MAX_BATCH = 64
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}
"""How far an output may be off by default, relative to its largest value."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        artefact: as it was read back.
        needs_trust: whether ``load_exported`` refuses the file without ``trust``, as it does every ``.pt2``.
        difference: from the model's own numbers, the largest of all heads and sizes that were
            tried, relative to the largest number; None for int8.
        shapes: the inputs that were tried.
        before, after: scores in points by head, of int8.
    """

    artefact: ExportedModel
    needs_trust: bool
    difference: float | None
    shapes: Sequence[tuple[int, ...]]
    before: Scores
    after: Scores


def export(
    model: nn.Module,
    path: str | Path,
    *,
    format: str = "exported-program",
    example: Tensor | None = None,
    max_batch: int = MAX_BATCH,
    dynamic_size: bool = False,
    heads: Mapping[str, Head] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    dtype: torch.dtype | str = torch.float32,
    int8: Int8 | None = None,
    tolerance: float | None = None,
    force: bool = False,
) -> Exported:
    """Writes ``model`` to a file, reads it back, and compares what both say.

    The file takes its place when all is well; else nothing is left.

    Args:
        model: on the CPU; it is exported as in evaluation.
        path: of the file; ``FORMATS`` has the ending of each format.
        format: "exported-program", "onnx", "openvino", "aoti" or "safetensors".
        example: an input (n, c, h, w) or (n, c, t, h, w); by default random and of the model's
            usual size.
        max_batch: the largest batch.
        dynamic_size: take images of any height and width, not only those of the example.
        heads: what outputs mean, by head; in the order of the outputs for a model of one's own.
        preprocessing: how an image becomes an input, in keys of ``data`` of a training config.
        dtype: of the weights, "float32" or "bfloat16", and of the arithmetic, but in safetensors,
            which run in float32 again. Inputs and outputs are float32 always.
        int8: quantise; scores are compared then, not numbers.
        tolerance: the largest difference from the model's own numbers, relative to the largest;
            by default 1e-4, and 2e-2 in bfloat16; not for int8.
        force: replace a file that is there.

    Raises:
        TypeError: ``model`` is no module.
        ConfigError: a wrong argument, an operator that the format does not have, or numbers that
            differ.
    """
    path = Path(os.path.expanduser(path))
    precision: Any = str(dtype).removeprefix("torch.")
    max_loss = int8.max_loss if int8 else 0.0
    check_arguments(path, format, max_batch, precision, tolerance, force, int8 is not None, max_loss)
    if int8 and not len(int8.calibration):
        raise ConfigError("int8: calibration is empty; give inputs of the training data")
    check_model(model)
    entry, kind = FORMATS[format], getattr(torch, precision)
    bound = TOLERANCES[precision] if tolerance is None else tolerance
    with in_mode(model, training=False) as model:
        example = read_example(model, example, max_batch)
        names = names_of(model, example, heads or {})
        metadata = Metadata(
            format=format,
            precision=precision if int8 is None else "int8",
            input_shape=free_shape(example.shape, dynamic_size),
            max_batch=max_batch,
            outputs=tuple(names),
            heads={**(heads or {}), **{name: Head() for name in names if name not in (heads or {})}},
            preprocessing=None if preprocessing is None else dict(preprocessing),
            model=_config(model),
        )
        check_preprocessing(metadata)
        request = Request(model, example, metadata, int8)
        with _beside(path) as beside:
            _save(entry, request, beside, kind)
            artefact = load_exported(beside, trust=True)
            done = compare(artefact, request, bound) if int8 is None else measure(artefact, request, int8)
            with _writing(path):
                for part in sorted(beside.parent.iterdir(), key=lambda part: part == beside):
                    os.replace(part, path.with_suffix(part.suffix))
    return Exported(ExportedModel(path, artefact.metadata, artefact._loaded), entry.needs_trust, *done)


# -- what is written


def _config(model: nn.Module) -> dict[str, Any] | None:
    try:
        return describe(model)
    except ConfigError:  # a model of one's own
        return None


class _Cast(nn.Module):
    """A copy of a module in another type than it takes and gives."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Any:
        return tree_map(lambda output: _to(output, x.dtype), self.model(x.to(self.dtype)))


def _to(output: Any, dtype: torch.dtype) -> Any:
    return output.to(dtype) if isinstance(output, Tensor) and output.is_floating_point() else output


def _convert(request: Request, entry: Format, dtype: torch.dtype) -> nn.Module:
    """Returns the model in the type that the file has."""
    model = request.model
    if dtype == torch.float32:
        return model
    if not entry.needs_trust:  # of weights alone: what runs them chooses the type of its arithmetic
        return copy.deepcopy(model).to(dtype)
    cast = _Cast(model, dtype)
    try:
        cast(request.example)
    except Exception as error:  # of whatever a module does
        raise ConfigError(
            f"the model does not run in {request.metadata.precision}: {reason_of(error)}"
        ) from error
    return cast


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path of the same name in a folder that is gone after it."""
    with _writing(path):
        folder = TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    with folder:
        yield Path(folder.name, path.name)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise system_error(error, f"cannot write {str(path)!r}") from None


def _save(entry: Format, request: Request, path: Path, dtype: torch.dtype) -> None:
    try:
        entry.save(replace(request, model=_convert(request, entry, dtype)), path)
    except ConfigError:
        raise
    except Exception as error:  # exporters raise whatever they stumble over, such as a full disk
        if cause := system_cause(error):
            raise system_error(cause, f"cannot write {str(path)!r}") from error
        reason = reason_of(error)
        raise ConfigError(f"cannot export as {request.metadata.format}: {reason}") from error
