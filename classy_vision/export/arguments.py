"""Checks of the arguments of ``export``, before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.atomic import check_target
from classy_vision.config import ConfigError, unknown
from classy_vision.engines.optimized import Optimized
from classy_vision.engines.program import check_tolerance
from classy_vision.export.compare import draw_input
from classy_vision.export.formats import FORMATS, Int8
from classy_vision.export.metadata import Head, Metadata
from classy_vision.models.classy_model import ClassyModel
from classy_vision.trunk.trunk import END


def check_arguments(
    path: Path,
    format: str,
    max_batch: int,
    dtype: str,
    tolerance: float | None,
    force: bool,
    max_loss: float | None,
) -> None:
    """Checks arguments of ``export`` that need no model; ``max_loss`` is None where it is not int8.

    Raises:
        ConfigError: an argument is wrong.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    if path.suffix != FORMATS[format].suffix:
        raise ConfigError(
            f"{str(path)!r}: the name of a file in the format {format} ends in {FORMATS[format].suffix}"
        )
    for suffix in (path.suffix, *FORMATS[format].beside):
        check_target(path.with_suffix(suffix), force=force)
    if not isinstance(max_batch, int) or max_batch < 2:
        raise ConfigError(f"max_batch = {max_batch}: give 2 or more; smaller batches are always accepted")
    check_tolerance(tolerance)
    dtypes = [one for entry in FORMATS.values() for one in entry.precisions if one != "int8"]
    if dtype not in dtypes:
        raise unknown("dtype", dtype, dtypes)
    int8 = max_loss is not None
    if int8 and tolerance is not None:
        raise ConfigError(f"int8 and tolerance = {tolerance}: scores are compared for int8, so give max_loss")
    if int8 and dtype != "float32":
        raise ConfigError(f"int8 and dtype = {dtype!r}: a file has one precision")
    precision = "int8" if int8 else dtype
    if precision not in FORMATS[format].precisions:
        others = ", ".join(name for name, one in FORMATS.items() if precision in one.precisions)
        raise ConfigError(f"{format} files cannot hold {precision} models (allowed: {others})")
    if max_loss is not None and not 0 <= max_loss <= 100:
        raise ConfigError(f"max_loss = {max_loss}: give percentage points from 0 to 100")


def check_model(model: nn.Module, int8: Int8 | None) -> None:
    """Checks that ``model`` can be exported, and what it is quantized by.

    Raises:
        TypeError: it is not a module.
        ConfigError: it is optimized, on a GPU, or not in float32, or there are no inputs to calibrate with.
    """
    if int8 and not len(int8.calibration):
        raise ConfigError("int8: calibration is empty; give inputs from the training data")
    if isinstance(model, Optimized):
        raise ConfigError("the model is optimized: export the model that it was made of")
    if not isinstance(model, nn.Module):
        raise TypeError(f"export takes a module of torch, not {type(model).__name__}: build_model makes one")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type != "cpu":
            raise ConfigError(
                f"the model is on {tensor.device}: call model.cpu() first, models are exported on the CPU"
            )
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(types) == 1 and torch.float32 not in types:
        [kind] = types
        name = str(kind).removeprefix("torch.")
        raise ConfigError(
            f"the model is in {name}: call model.float() first; dtype selects the type in the file"
        )


def make_example(model: nn.Module, example: Tensor | None, max_batch: int) -> Tensor:
    """Returns an input like ``example``, with a batch above 1, which exporters would specialize.

    Raises:
        ConfigError: ``example`` is not a float32 batch, or is missing and the model has no usual input.
    """
    if example is None:
        if not isinstance(model, ClassyModel):
            raise ConfigError(f"{type(model).__name__} has no input_shape: give an example")
        example = torch.empty(1, *model.input_shape)
    if not isinstance(example, Tensor):
        raise ConfigError(f"example: a float32 batch is needed, as a tensor, not {type(example).__name__}")
    if example.dim() < 2 or not example.numel() or example.dtype != torch.float32:
        raise ConfigError(f"example: a float32 batch is needed, not {tuple(example.shape)} of {example.dtype}")
    shape = (min(3, max_batch), *example.shape[1:])
    try:
        return draw_input(shape)
    except RuntimeError as error:
        raise ConfigError(f"there is not enough memory for inputs {shape}: {find_reason(error)}") from None


def describe_sizes_and_outputs(
    model: nn.Module, example: Tensor, dynamic_size: bool, heads: Mapping[str, Head]
) -> dict[str, Any]:
    """Returns the "input_shape", "outputs" and "heads" of metadata; sizes that the file leaves free are None.

    Raises:
        ConfigError: the model does not take the example, its outputs do not agree with ``heads``, or inputs of
            any size are asked for that are not images.
    """
    shape = tuple(example.shape)
    try:
        outputs = model(example)
    except Exception as error:  # any that a user's module raises
        raise ConfigError(f"the model does not take inputs {shape}: {find_reason(error)}") from error
    if isinstance(outputs, Mapping):
        names = [str(name) for name in outputs]
    elif isinstance(model, ClassyModel):
        names = [str(head.unique_id) for entries in model.get_heads().values() for head in entries] or [END]
    else:
        names = list(heads) or ["output"]
    leaves = list(outputs.values()) if isinstance(outputs, Mapping) else [outputs]
    if len(leaves) != len(names) or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ConfigError(f"{type(model).__name__} returns neither a tensor nor a dict of tensors by head")
    if odd := next((name for name in heads if name not in names), None):
        raise unknown("head", odd, names)
    found = {**heads, **{name: Head() for name in names if name not in heads}}
    for name, leaf in zip(names, leaves):
        found[name].check_output(name, tuple(leaf.shape))
    if dynamic_size and len(shape) < 4:
        raise ConfigError(f"inputs of shape {shape} are not images: only images can have a dynamic size")
    sizes = (None, *shape[1:-2], None, None) if dynamic_size else (None, *shape[1:])
    return {"input_shape": sizes, "outputs": tuple(names), "heads": found}


def check_preprocessing(metadata: Metadata) -> None:
    """Checks that preprocessing turns images into inputs of the model.

    Raises:
        ConfigError: a key is unknown, or the size differs.
    """
    if metadata.preprocessing is None:
        return
    from classy_vision.data.config import DataConfig  # with the packages for training

    data = DataConfig.parse(metadata.preprocessing, "preprocessing")
    try:
        metadata.check_input((1, *data.input_shape(metadata.input_shape[1] or 1, training=False)))
    except ConfigError as error:
        raise ConfigError(f"preprocessing makes {error}") from None


def find_reason(error: BaseException) -> str:
    """Returns one line on the first cause of an error: exporters wrap it in long explanations."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
