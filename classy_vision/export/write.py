"""Writing a model to a file that other programs run: it is read back and compared before it takes its place."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch import Tensor, nn

from classy_vision.atomic import system_cause
from classy_vision.config import ConfigError, system_error
from classy_vision.cost.memory import in_mode
from classy_vision.engines.program import Cast
from classy_vision.export.arguments import (
    check_arguments,
    check_model,
    check_preprocessing,
    describe_sizes_and_outputs,
    find_reason,
    make_example,
)
from classy_vision.export.compare import Found, ScoreError, compare_numbers, compare_scores, run_model
from classy_vision.export.exported_model import ExportedModel, find_code, load_exported
from classy_vision.export.formats import FORMATS, Int8, Request, Scores
from classy_vision.export.metadata import Head, Metadata
from classy_vision.models.classy_model import ClassyModel

MAX_BATCH = 64
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 1e-2}
"""How much an output may differ by default, relative to its largest value."""


@dataclass(frozen=True)
class Exported:
    """What ``export`` wrote.

    Attributes:
        model: the file, read back.
        needs_trust: whether ``load_exported`` refuses the file without ``trust``, as it does every ``.pt2``.
        difference: the largest difference from the model's own outputs over all heads and inputs that were
            tried, relative to the largest output; None for int8.
        shapes: the shapes of those inputs.
        before, after: scores in points by head, for int8.
    """

    model: ExportedModel
    needs_trust: bool
    difference: float | None
    shapes: Sequence[tuple[int, ...]]
    before: Scores
    after: Scores

    @property
    def artefact(self) -> ExportedModel:
        """The old name of ``model``."""
        warnings.warn(
            "Exported.artefact is now Exported.model; the old name will be removed in the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.model


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
    """Writes ``model`` to a file, which takes its place once it is read back and gives the same outputs.

    Args:
        model: on the CPU; it is exported in evaluation mode.
        path: ends in the suffix of the format; see ``FORMATS``.
        format: "exported-program", "onnx", "openvino", "aoti" or "safetensors".
        example: an input (n, c, h, w) or (n, c, t, h, w); random and of the model's usual size by default.
        max_batch: the largest batch.
        dynamic_size: accept images of any height and width, not only those of the example.
        heads: the meaning of the outputs, by head; in their order for a module that is not a ``ClassyModel``.
        preprocessing: how an image becomes an input, in the keys of ``data`` of a training config.
        dtype: of weights and arithmetic, "float32", "bfloat16" or "float16"; inputs and outputs stay float32.
        int8: quantize the model; scores are compared then instead of outputs.
        tolerance: the largest relative difference, by default that of ``TOLERANCES``; not for int8.
        force: replace an existing file.

    Raises:
        TypeError: ``model`` is not a module.
        ConfigError: an argument is wrong, the format lacks an operator, or the outputs differ.
    """
    path, precision = Path(os.path.expanduser(path)), str(dtype).removeprefix("torch.")
    check_arguments(path, format, max_batch, precision, tolerance, force, int8.max_loss if int8 else None)
    check_model(model, int8)
    with in_mode(model, training=False) as model:
        example = make_example(model, example, max_batch)
        metadata = Metadata(
            format=format,
            max_batch=max_batch,
            preprocessing=None if preprocessing is None else dict(preprocessing),
            precision="int8" if int8 else cast(Any, precision),
            model=_find_config(model),
            **describe_sizes_and_outputs(model, example, dynamic_size, heads or {}),
        )
        return _export(Request(model, example, metadata, int8), path, precision, tolerance)


def _export(request: Request, path: Path, dtype: str, tolerance: float | None) -> Exported:
    check_preprocessing(request.metadata)
    with _make_folder(path) as folder:
        if request.int8 is None:
            exported = _write(request, folder / path.name, dtype)
            found = compare_numbers(exported, request, TOLERANCES[dtype] if tolerance is None else tolerance)
        else:
            exported, found = _write_int8(request, folder / path.name, request.int8)
        with _writing(path):
            for part in sorted(
                folder.iterdir(), key=lambda part: part.name == path.name
            ):  # the file itself last
                os.replace(part, path.with_suffix(part.suffix))
    needs_trust = FORMATS[request.metadata.format].needs_trust
    return Exported(replace(exported, path=path), needs_trust, *found)


def _write(request: Request, path: Path, dtype: str = "float32") -> ExportedModel:
    """Writes the file and reads it back."""
    _save(request, path, dtype)
    return load_exported(path, trust=True)


def _write_int8(request: Request, path: Path, int8: Int8) -> tuple[ExportedModel, Found]:
    """Writes the file; if a head loses too much, again with layers in float32, where the format has those."""
    before = int8.measure(run_model(request))
    exported = _write(request, path)
    try:
        return exported, compare_scores(exported, before, int8)
    except ScoreError:
        if request.metadata.format != "openvino":
            raise
    exported = _write(replace(request, before=before), path)
    return exported, compare_scores(exported, before, int8)


# -- what is written


def _find_config(model: nn.Module) -> dict[str, Any] | None:
    try:
        config = model.to_config() if isinstance(model, ClassyModel) else None
        return config and {k: v for k, v in config.items() if k not in ("preprocessing", "tasks")}
    except ConfigError:  # the model is not one of the library's
        return None


def _prepare(request: Request, dtype: str) -> nn.Module:
    """Returns the model in the type that the file holds."""
    model, format = request.model, request.metadata.format
    if dtype == "float32" or format == "openvino":  # which converts by itself
        return model
    if format == "safetensors":  # whatever runs the weights chooses its arithmetic
        return copy.deepcopy(model).to(getattr(torch, dtype))
    converted = Cast(model, dtype)
    try:
        converted(request.example)
    except Exception as error:  # any that a user's module raises
        raise ConfigError(f"the model does not run in {dtype}: {find_reason(error)}") from error
    return converted


@contextmanager
def _make_folder(path: Path) -> Iterator[Path]:
    """Makes a folder next to ``path``, and removes it again."""
    with _writing(path):
        folder = TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    with folder:
        yield Path(folder.name)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise system_error(error, f"cannot write {str(path)!r}") from None


def _save(request: Request, path: Path, dtype: str) -> None:
    format = request.metadata.format
    try:
        find_code(format).save(replace(request, model=_prepare(request, dtype)), path)
    except ConfigError:
        raise
    except Exception as error:  # exporters raise errors of many kinds, such as that of a full disk
        if cause := system_cause(error):
            raise system_error(cause, f"cannot write {str(path)!r}") from error
        raise ConfigError(f"cannot export as {format}: {find_reason(error)}") from error
