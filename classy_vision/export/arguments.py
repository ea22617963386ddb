"""What ``export`` is asked for, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, unknown
from classy_vision.engines.optimized import Optimized
from classy_vision.engines.program import check_tolerance
from classy_vision.export.formats import FORMATS
from classy_vision.export.metadata import Head, Metadata
from classy_vision.export.verify import random_input
from classy_vision.models.classy_model import ClassyModel
from classy_vision.trunk.trunk import END
from classy_vision.weights.files import check_target


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
    for suffix in (path.suffix, *FORMATS[format].beside):
        check_target(path.with_suffix(suffix), force=force)
    if not isinstance(max_batch, int) or max_batch < 2:
        raise ConfigError(f"max_batch = {max_batch}: give 2 or more; a batch of 1 is among them")
    check_tolerance(tolerance)
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


def check_model(model: nn.Module) -> None:
    """Raises where ``model`` is nothing to export.

    Raises:
        TypeError: it is no module.
        ConfigError: it is optimized, on a GPU, or not in float32.
    """
    if isinstance(model, Optimized):
        raise ConfigError("the model is optimized: export the model that it was made of")
    if not isinstance(model, nn.Module):
        raise TypeError(f"export takes a module of torch, not {type(model).__name__}: build_model makes one")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type != "cpu":
            raise ConfigError(f"the model is on {tensor.device}: model.cpu() first, artefacts are made there")
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if len(types) == 1 and torch.float32 not in types:
        [kind] = types
        name = str(kind).removeprefix("torch.")
        raise ConfigError(f"the model is in {name}: model.float() first, dtype says what is written")


def read_example(model: nn.Module, example: Tensor | None, max_batch: int) -> Tensor:
    """An input of which the batch is no special number: not 1."""
    if example is None:
        if not isinstance(model, ClassyModel):
            raise ConfigError(f"{type(model).__name__} does not say what it takes: give an example")
        example = torch.empty(1, *model.input_shape)
    if not isinstance(example, Tensor):
        raise ConfigError(f"example: a float32 batch is needed, as a tensor, not {type(example).__name__}")
    if example.dim() < 2 or not example.numel() or example.dtype != torch.float32:
        raise ConfigError(f"example: a float32 batch is needed, not {tuple(example.shape)} of {example.dtype}")
    shape = (min(3, max_batch), *example.shape[1:])
    try:
        return random_input(shape)
    except RuntimeError as error:
        raise ConfigError(f"there is no memory for inputs {shape}: {reason_of(error)}") from None


def names_of(model: nn.Module, example: Tensor, heads: Mapping[str, Head]) -> list[str]:
    """The ids of the heads, in the order of the outputs.

    Raises:
        ConfigError: the model does not take the example, or gives something else than ``heads`` say.
    """
    try:
        outputs = model(example)
    except Exception as error:  # of whatever a module does
        shape = tuple(example.shape)
        raise ConfigError(f"the model does not take inputs {shape}: {reason_of(error)}") from error
    if isinstance(outputs, Mapping):
        names = [str(name) for name in outputs]
    elif isinstance(model, ClassyModel):
        names = [str(head.unique_id) for entries in model.get_heads().values() for head in entries] or [END]
    else:
        names = list(heads) or ["output"]
    leaves = list(outputs.values()) if isinstance(outputs, Mapping) else [outputs]
    if len(leaves) != len(names) or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise ConfigError(f"{type(model).__name__} gives no tensor, and no dict of tensors by head")
    if odd := next((name for name in heads if name not in names), None):
        raise unknown("head", odd, names)
    for name, leaf in zip(names, leaves):
        if name in heads:
            heads[name].check_output(name, tuple(leaf.shape))
    return names


def free_shape(shape: Sequence[int], dynamic_size: bool) -> tuple[int | None, ...]:
    """``shape`` with None where the file is to take any size: the batch, and height and width if asked for.

    Raises:
        ConfigError: ``shape`` has no height and width.
    """
    if not dynamic_size:
        return (None, *shape[1:])
    if len(shape) < 4:
        raise ConfigError(f"inputs of shape {tuple(shape)} are no images: they have one size")
    return (None, *shape[1:-2], None, None)


def check_preprocessing(metadata: Metadata) -> None:
    """Raises where images would not become inputs of the model.

    Raises:
        ConfigError: a key that is none, or another size.
    """
    if metadata.preprocessing is None:
        return
    from classy_vision.data.config import DataConfig  # with the packages for training

    data = DataConfig.parse(metadata.preprocessing, "preprocessing")
    try:
        metadata.check_input((1, *data.input_shape(metadata.input_shape[1] or 1, training=False)))
    except ConfigError as error:
        raise ConfigError(f"preprocessing makes {error}") from None


def reason_of(error: BaseException) -> str:
    """What went wrong first, in a line: exporters wrap it, and explain themselves at length."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
