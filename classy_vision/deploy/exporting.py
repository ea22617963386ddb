"""Models into files that other programs run, each read back and compared before it is left behind."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, unknown
from classy_vision.deploy.artefact import Artefact, load_artefact
from classy_vision.deploy.formats import FORMATS, Format, Request
from classy_vision.deploy.metadata import Head, Metadata
from classy_vision.deploy.optimized import TOLERANCES, Optimized, converted, optimize
from classy_vision.deploy.verify import Int8, Scores, compare, measure, random_input
from classy_vision.hub.describe import describe
from classy_vision.models.classy_model import ClassyModel
from classy_vision.models.trunk import END
from classy_vision.weights.files import check_target

MAX_BATCH = 64


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        artefact: as it was read back.
        difference: from the model's own numbers, the largest of all heads and sizes that were
            tried, relative to the largest number; None for int8.
        shapes: the inputs that were tried.
        before, after: scores in points by head, of int8.
    """

    artefact: Artefact
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

    The file takes its place when all is well; else nothing is left. Exported programs and AOTInductor
    packages hold what ``optimize(pack=False)`` makes of a ``ClassyModel``, but for int8; one that it
    refuses for the example is written as it is, and so are other modules.

    Args:
        model: on the CPU; it is exported as in evaluation.
        path: of the file; ``FORMATS`` has the ending of each format.
        format: "exported-program", "onnx", "aoti" or "safetensors".
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
        ConfigError: a wrong argument, an operator that the format does not have, or numbers that
            differ.
    """
    path = Path(path).expanduser()
    max_loss = int8.max_loss if int8 else 0.0
    precision: Any = str(dtype).removeprefix("torch.")
    check_arguments(path, format, max_batch, precision, tolerance, force, int8 is not None, max_loss)
    entry, kind = FORMATS[format], getattr(torch, precision)
    bound = TOLERANCES[kind] if tolerance is None else tolerance
    with _evaluating(model):
        example = _example(model, example, max_batch)
        names = _names(model, example, heads)
        metadata = Metadata(
            format=format,
            precision=precision if int8 is None else "int8",
            input_shape=_free(example.shape, dynamic_size),
            max_batch=max_batch,
            outputs=tuple(names),
            heads={**(heads or {}), **{name: Head() for name in names if name not in (heads or {})}},
            preprocessing=None if preprocessing is None else dict(preprocessing),
            model=_config(model),
        )
        request = Request(model, example, metadata, int8.calibration if int8 else None)
        with _beside(path) as beside:
            _save(entry, request, beside, kind, bound)
            artefact = load_artefact(beside, trust=True)
            done = compare(artefact, request, bound) if int8 is None else measure(artefact, request, int8)
            with _writing(path):
                os.replace(beside, path)
    return Exported(Artefact(path, artefact.metadata, artefact._loaded), *done)


# -- before


def check_arguments(
    path: Path,
    format: str,
    max_batch: int,
    dtype: str,
    tolerance: float | None,
    force: bool,
    int8: bool,
    max_loss: float,
) -> None:
    """Raises before any work is done; see ``export``.

    Raises:
        ConfigError: a wrong argument.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if path.suffix != FORMATS[format].suffix:
        raise ConfigError(f"{str(path)!r}: the name of a file of {format} ends in {FORMATS[format].suffix}")
    check_target(path, force=force)
    if max_batch < 2:
        raise ConfigError(f"max_batch = {max_batch}: give 2 or more; a batch of 1 is among them")
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise ConfigError(f"tolerance = {tolerance}: give a number above 0, such as 0.0001")
    dtypes = [one for entry in FORMATS.values() for one in entry.precisions if one != "int8"]
    if dtype not in dtypes:
        raise unknown("dtype", dtype, dtypes)
    if int8 and tolerance is not None:
        raise ConfigError(f"int8 and tolerance = {tolerance}: scores are compared, give max_loss")
    if int8 and dtype != "float32":
        raise ConfigError(f"int8 and dtype = {dtype!r}: a file is in one of them")
    precision = "int8" if int8 else dtype
    if precision not in FORMATS[format].precisions:
        able = ", ".join(name for name, one in FORMATS.items() if precision in one.precisions)
        raise ConfigError(f"{format} holds no {precision} models (allowed: {able})")
    if int8 and not 0 <= max_loss <= 100:
        raise ConfigError(f"max_loss = {max_loss}: give points from 0 to 100")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and every module's own mode after it."""
    if isinstance(model, Optimized):
        raise ConfigError("the model is optimized: export the model that it was made of")
    odd = [tensor.device for tensor in model.state_dict().values() if tensor.device.type != "cpu"]
    if odd:
        raise ConfigError(f"the model is on {odd[0]}: model.cpu() first, artefacts are made and compared there")
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(types) == 1 and torch.float32 not in types:
        [kind] = types
        name = str(kind).removeprefix("torch.")
        raise ConfigError(f"the model is in {name}: model.float() first, dtype says what is written")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _example(model: nn.Module, example: Tensor | None, max_batch: int) -> Tensor:
    """An input of which the batch is no special number: not 1."""
    if example is None:
        if not isinstance(model, ClassyModel):
            raise ConfigError(f"{type(model).__name__} does not say what it takes: give an example")
        example = torch.empty(1, *model.input_shape)
    if example.dim() < 2 or not len(example) or example.dtype != torch.float32:
        raise ConfigError(f"example: a float32 batch is needed, not {tuple(example.shape)} of {example.dtype}")
    return random_input((min(3, max_batch), *example.shape[1:]))


def _names(model: nn.Module, example: Tensor, heads: Mapping[str, Head] | None) -> list[str]:
    """The ids of the heads, in the order of the outputs."""
    with torch.no_grad():
        outputs = model(example)
    if isinstance(outputs, Mapping):
        names = [str(name) for name in outputs]
    elif isinstance(model, ClassyModel):
        names = [str(head.unique_id) for entries in model.get_heads().values() for head in entries] or [END]
    else:
        names = list(heads or ("output",))
    leaves = list(outputs.values()) if isinstance(outputs, Mapping) else [outputs]
    if len(leaves) != len(names) or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ConfigError(f"{type(model).__name__} gives no tensor, and no dict of tensors by head")
    if odd := next((name for name in heads or {} if name not in names), None):
        raise unknown("head", odd, names)
    return names


def _free(shape: Sequence[int], dynamic_size: bool) -> tuple[int | None, ...]:
    if not dynamic_size:
        return (None, *shape[1:])
    if len(shape) < 4:
        raise ConfigError(f"inputs of shape {tuple(shape)} are no images: they have one size")
    return (None, *shape[1:-2], None, None)


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
        return converted(self.model(x.to(self.dtype)), x.dtype)


def _written(request: Request, entry: Format, dtype: torch.dtype, tolerance: float) -> nn.Module:
    """What the file is made of; see ``export``."""
    model = request.model
    if not entry.folds:  # of weights alone: what runs them chooses the type of its arithmetic
        return model if dtype == torch.float32 else copy.deepcopy(model).to(dtype)
    if isinstance(model, ClassyModel):
        with suppress(ConfigError):
            return optimize(model, request.example, dtype=dtype, pack=False, tolerance=tolerance)
    if dtype == torch.float32:
        return model
    cast = _Cast(model, dtype)
    try:
        cast(request.example)
    except Exception as error:  # of whatever a module does
        raise ConfigError(
            f"the model does not run in {request.metadata.precision}: {_reason(error)}"
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
        raise ConfigError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def _save(entry: Format, request: Request, path: Path, dtype: torch.dtype, tolerance: float) -> None:
    try:
        if request.calibration is None:  # the tools for int8 look for norms, and fold them themselves
            request = replace(request, model=_written(request, entry, dtype, tolerance))
        entry.save(request, path)
    except ConfigError:
        raise
    except Exception as error:  # exporters raise whatever they stumble over, such as a full disk
        reason = _reason(error)
        raise ConfigError(f"cannot export as {request.metadata.format}: {reason}") from error


def _reason(error: BaseException) -> str:
    """What went wrong first, in a line: exporters wrap it, and explain themselves at length."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
