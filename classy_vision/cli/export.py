"""``classy export``: a model as a file that other programs run."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.options import WORDS, ForceOption, training_packages
from classy_vision.config import ConfigError
from classy_vision.identify.networks import MODELS_ONLY
from classy_vision.resolve import WITHOUT_WEIGHTS, Kind, ModelSource, read_network, resolve
from classy_vision.weights.catalogue import Published, is_published, published

if TYPE_CHECKING:
    from classy_vision.data.config import DataConfig
    from classy_vision.export import Exported, ExportedModel, Head
    from classy_vision.models import ClassyModel


class ExportDtype(str, Enum):
    """The types of weights, apart from int8."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class ExportFormat(str, Enum):
    """The formats of files."""

    EXPORTED_PROGRAM = "exported-program"
    ONNX = "onnx"
    OPENVINO = "openvino"
    AOTI = "aoti"
    SAFETENSORS = "safetensors"


CALLS = 5
"""The number of calls by which a file is timed."""
CHECKS, QUANTIZING = "Checks", "Quantization"
Word = Annotated[str, typer.Argument(metavar="MODEL", help=f"The model: {WORDS}.")]
FormatOption = Annotated[
    ExportFormat,
    typer.Option(
        "--format",
        metavar="exported-program|onnx|openvino|aoti|safetensors",
        help="The format of the file.",
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The file to write: .pt2, .onnx, .xml (and .bin next to it) or .safetensors.",
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE", help="Load published weights or a file of weights into a preset, family or config."
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Height and width of the images.", show_default="those of the model"),
]
DynamicSize = Annotated[
    bool,
    typer.Option(
        "--dynamic-size", help="Take images of any height and width. Not for vision transformers and MLPs."
    ),
]
BatchSize = Annotated[
    int,
    typer.Option("--batch-size", min=2, metavar="N", help="Take batches of at most this many samples."),
]
Dtype = Annotated[
    ExportDtype,
    typer.Option(
        metavar="float32|bfloat16|float16",
        help="Type of the weights and, apart from safetensors, of the arithmetic; "
        "onnx takes float32 alone, and openvino alone takes float16.",
    ),
]
Quantize = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Quantize a run by its training data, for onnx, openvino and aoti.",
        rich_help_panel=QUANTIZING,
    ),
]
MaxLoss = Annotated[
    float | None,
    typer.Option(
        "--max-loss",
        "--max-drop",
        metavar="POINTS",
        help="Let each head lose at most this many points with --int8.",
        show_default="1",
        rich_help_panel=QUANTIZING,
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Allow outputs to differ by this part of the largest one; not with --int8.",
        show_default="0.0001; 0.02 in bfloat16, 0.01 in float16",
        rich_help_panel=CHECKS,
    ),
]


def export(
    source: Word,
    format: FormatOption,
    output: Output,
    weights: Weights = None,
    image_size: ImageSize = None,
    dynamic_size: DynamicSize = False,
    batch_size: BatchSize = 64,
    dtype: Dtype = ExportDtype.FLOAT32,
    int8: Quantize = False,
    max_loss: MaxLoss = None,
    tolerance: Tolerance = None,
    force: ForceOption = False,
) -> None:
    """Write a model with its heads to a file, and check it by running it.

    Preprocessing and labels are stored in the file: classy predict FILE IMAGES runs it. "aoti" compiles for
    this kind of processor, which takes a minute.
    """
    path = Path(os.path.expanduser(output))
    if max_loss is not None and not int8:
        raise ConfigError("--max-loss is for --int8: numbers are compared otherwise, see --tolerance")
    options: dict[str, Any] = {
        "max_batch": batch_size,
        "dtype": dtype.value,
        "tolerance": tolerance,
        "force": force,
    }
    word = resolve(source, MODELS_ONLY, "classy export")
    if word.kind is Kind.CONFIG:
        read_network(word)  # checked before torch is imported, which takes seconds
    with training_packages():
        from classy_vision.export.arguments import check_arguments
    loss = 1.0 if max_loss is None else max_loss
    check_arguments(path, format=format.value, **options, max_loss=loss if int8 else None)
    if int8 and word.kind is not Kind.RUN:
        raise ConfigError("--int8 needs a run folder: ranges and accuracy come from its data")
    found = _find(word, weights)
    data = _resize(found.data, image_size)
    _export(
        found, data, path, {"format": format.value, **options}, image_size, dynamic_size, loss if int8 else None
    )


def _export(
    found: Found,
    data: DataConfig | None,
    path: Path,
    options: Mapping[str, Any],
    image_size: int | None,
    dynamic_size: bool,
    max_loss: float | None,
) -> None:
    from classy_vision.export.write import export
    from classy_vision.predict.exported import preprocessing

    done = export(
        found.model,
        path,
        example=_make_example(found, data, image_size),
        dynamic_size=dynamic_size,
        heads=found.heads,
        preprocessing=None if data is None else preprocessing(data),
        int8=None if max_loss is None else _calibrate(found, data, max_loss),
        **options,
    )
    _print(done, found)


@dataclass(frozen=True)
class Found:
    """The model to export.

    Attributes:
        model: on the CPU.
        data: how images become its input, where that is known.
        heads: what its outputs mean, by head.
        run: its folder, if it is a run.
        is_initial: whether its weights are random.
    """

    model: ClassyModel
    data: DataConfig | None
    heads: dict[str, Head]
    run: Path | None = None
    is_initial: bool = False


def _find(source: ModelSource, weights: str | None) -> Found:
    if source.kind in (Kind.RUN, Kind.SAVED):
        if weights is not None:
            raise ConfigError(f"--weights: {source.kind.value} has its own weights")
        from classy_vision.models import ClassyModel
        from classy_vision.predict import Predictor

        assert source.path is not None
        predictor = Predictor.load(source.path)
        assert isinstance(predictor.model, ClassyModel)
        return Found(predictor.model.cpu(), predictor.data, _make_heads(predictor.tasks), source.path)
    model = _load(source, weights)
    known = next((name for name in (weights, source.name) if name and is_published(name)), None)
    return _describe(model, published(known) if known else None, source, weights)


def _load(source: ModelSource, weights: str | None) -> ClassyModel:
    from classy_vision.identify.networks import find_network_of, load_model

    if weights is None:
        return load_model(source.path or source.name, "classy export")
    from classy_vision.models import build_model
    from classy_vision.trunk.loading import find_source
    from classy_vision.weights.files import read_tensors

    config = find_network_of(read_tensors(find_source(weights)), source.name, "classy export")
    return build_model({**config, "weights": {"source": weights, "skip_heads": ()}})


def _describe(model: ClassyModel, entry: Published | None, source: ModelSource, weights: str | None) -> Found:
    from classy_vision.predict.predictor import expected_data, task_of

    try:
        data = expected_data(model, entry)
    except ConfigError:  # it takes no images
        data = None
    try:
        task = task_of(model, entry)
        heads = _make_heads({task.name: task})
    except ConfigError:  # features, or several heads whose meaning is unknown
        heads = {}
    return Found(model, data, heads, is_initial=weights is None and source.kind in WITHOUT_WEIGHTS)


def _make_heads(tasks: Any) -> dict[str, Head]:
    from classy_vision.export import Head

    return {name: Head(kind=task.config.kind, classes=task.classes) for name, task in tasks.items()}


def _resize(data: DataConfig | None, side: int | None) -> DataConfig | None:
    """Changes ``data`` to images of another size; the crop cuts off the same part."""
    if data is None or side is None:
        return data
    ratio = side / data.side(training=False)
    resize = data.resize
    if isinstance(resize, int):
        resize = max(side, round(resize * ratio))
    elif resize is not None:
        resize = (max(side, round(resize[0] * ratio)), max(side, round(resize[1] * ratio)))
    return data.model_copy(update={"image_size": side, "eval_size": None, "resize": resize})


def _make_example(found: Found, data: DataConfig | None, image_size: int | None) -> Any:
    import torch

    shape = found.model.input_shape
    if data is not None:
        return torch.empty(1, *data.input_shape(shape[0], training=False), device="meta")
    if image_size is not None and len(shape) < 3:
        raise ConfigError(f"--image-size {image_size}: the model takes {shape[0]} values, not images")
    side = () if image_size is None else (image_size, image_size)
    return torch.empty(1, *shape[: len(shape) - len(side)], *side, device="meta")


def _calibrate(found: Found, data: DataConfig | None, max_loss: float) -> Any:
    """Returns how a run is quantized, for which its data are read again."""
    assert found.run is not None
    from classy_vision.predict.exported import calibrate
    from classy_vision.train.job import prepare
    from classy_vision.train.run_folder import RunFolder

    settings = RunFolder(found.run).settings()
    if data is not None:
        settings = settings.model_copy(update={"data": data})
    return calibrate(prepare(settings.without_training()), max_loss)


def _print(done: Exported, found: Found) -> None:
    from classy_vision.export.formats import FORMATS

    exported = done.model
    metadata = exported.metadata
    sizes = ", ".join("any" if size is None else str(size) for size in metadata.input_shape[1:])
    suffixes = (exported.path.suffix, *FORMATS[metadata.format].beside)
    size = sum(exported.path.with_suffix(suffix).stat().st_size for suffix in suffixes)
    print(f"{exported.path}: {metadata.format}, {metadata.precision}, {size / 1e6:.2f} MB")
    print(f"  takes   (n, {sizes}), n from 1 to {metadata.max_batch}")
    for name, head in metadata.heads.items():
        classes = f", {len(head.classes)} classes" if head.classes else ""
        print(f"  head    {name}: {head.kind or 'unknown meaning'}{classes}")
    if done.difference is not None:
        tried = " ".join("x".join(map(str, shape)) for shape in done.shapes)
        print(f"  checked {tried}: at most {done.difference:.1e} from the model")
    milliseconds, start = _time_answers(exported)
    first = "" if start is None else f"; the first answer comes {start:.1f} s after a process starts"
    print(f"  takes   {milliseconds:.2f} ms for one input{first}")
    if done.needs_trust:
        print("  Reading it takes --trust, or load_exported(..., trust=True).")
    for name, before in done.before.items():
        after = done.after[name]
        print(f"  checked {name}: {before:.2f} points before, {after:.2f} in int8 ({after - before:+.2f})")
    if found.is_initial:
        print("  The weights are random: --weights loads others.")


def _time_answers(exported: ExportedModel) -> tuple[float, float | None]:
    """Returns the milliseconds for one input, and the seconds to the first answer of a new process.

    The second is None if a process cannot be started.
    """
    import numpy as np

    shape = tuple(size or 224 for size in (1, *exported.metadata.input_shape[1:]))
    images, times = np.zeros(shape, np.float32), []
    for _ in range(CALLS + 1):
        start = time.perf_counter()
        exported(images)
        times.append(time.perf_counter() - start)
    code = (
        "import sys, numpy; from classy_vision.export import load_exported; "
        f"load_exported(sys.argv[1], trust=True)(numpy.zeros({shape}, 'float32'))"
    )
    start = time.perf_counter()
    with suppress(OSError, subprocess.SubprocessError):
        command = [sys.executable, "-W", "ignore", "-c", code, str(exported.path.absolute())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment)
        return 1000 * statistics.median(times[1:]), time.perf_counter() - start
    return 1000 * statistics.median(times[1:]), None
