"""``classy export``: a model as a file that other programs run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.train import training_package
from classy_vision.config import ConfigError

if TYPE_CHECKING:
    from classy_vision.data.config import DataConfig
    from classy_vision.export import Exported, Head
    from classy_vision.models import ClassyModel


class ExportDtype(str, Enum):
    """The types of weights, but for int8."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class ExportFormat(str, Enum):
    """The formats there are."""

    EXPORTED_PROGRAM = "exported-program"
    ONNX = "onnx"
    OPENVINO = "openvino"
    AOTI = "aoti"
    SAFETENSORS = "safetensors"


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="A finished run folder, a folder of save_pretrained, a model's name, published weights, or a "
            "YAML or JSON file.",
        ),
    ],
    format: Annotated[ExportFormat, typer.Option(help="What to write.")],
    output: Annotated[
        Path,
        typer.Option(metavar="FILE", help="The file: .pt2, .onnx, .xml (and .bin beside it) or .safetensors."),
    ],
    weights: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Of a model that is no run: published ones, or a file."),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Height and width of the images; by default the model's."),
    ] = None,
    dynamic_size: Annotated[
        bool,
        typer.Option("--dynamic-size", help="Take any height and width. Not for vision transformers and MLPs."),
    ] = False,
    batch: Annotated[int, typer.Option(min=2, help="The largest batch; smaller ones do, too.")] = 64,
    dtype: Annotated[
        ExportDtype,
        typer.Option(help="Of weights and, but in safetensors, arithmetic; bfloat16 for all but onnx."),
    ] = ExportDtype.FLOAT32,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="Quantise a run by its training data; for onnx, openvino and aoti."),
    ] = False,
    max_loss: Annotated[
        float | None,
        typer.Option(
            "--max-loss", "--max-drop", help="With --int8, points that a head may lose.", show_default="1"
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="How far numbers may be from the model's, of the largest one; not with --int8.",
            show_default="0.0001; 0.02 in bfloat16",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a model with its heads to a file, and check it by running it.

    Preprocessing and labels go with it: classy predict FILE IMAGES runs it. "aoti" compiles for
    this kind of processor, which takes a minute.
    """
    training_package()
    from classy_vision.export.arguments import check_arguments
    from classy_vision.export.exporting import export

    options: dict[str, Any] = {
        "format": format.value,
        "max_batch": batch,
        "dtype": dtype.value,
        "tolerance": tolerance,
        "force": force,
    }
    path = Path(os.path.expanduser(output))
    if max_loss is not None and not int8:
        raise ConfigError("--max-loss is for --int8: numbers are compared otherwise, see --tolerance")
    max_loss = 1.0 if max_loss is None else max_loss
    check_arguments(path, **options, int8=int8, max_loss=max_loss)
    if int8 and not os.path.isdir(os.path.expanduser(source)):
        raise ConfigError("--int8 needs a run folder: ranges and accuracy come from its data")
    found = _find(source, weights)
    data = _resized(found.data, image_size)
    how = _calibration(found, data, max_loss) if int8 else None
    from classy_vision.predict.exported import preprocessing

    done = export(
        found.model,
        path,
        example=_example(found, data, image_size),
        dynamic_size=dynamic_size,
        heads=found.heads,
        preprocessing=None if data is None else preprocessing(data),
        int8=how,
        **options,
    )
    _print(done, found)


@dataclass(frozen=True)
class Found:
    """What is exported.

    Attributes:
        model: on the CPU.
        data: how images become its input, where that is known.
        heads: what its outputs mean, by head.
        run: its folder, if it is one.
        is_initial: its weights are random.
    """

    model: ClassyModel
    data: DataConfig | None
    heads: dict[str, Head]
    run: Path | None = None
    is_initial: bool = False


def _find(source: str, weights: str | None) -> Found:
    folder = Path(os.path.expanduser(source))
    if not folder.is_dir():
        return _find_network(source, weights)
    if weights is not None:
        raise ConfigError("--weights is for a model that is no run; a run folder has its own")
    from classy_vision.models import ClassyModel
    from classy_vision.predict import Predictor

    predictor = Predictor.load(folder)
    assert isinstance(predictor.model, ClassyModel)
    return Found(predictor.model.cpu(), predictor.data, _heads(predictor.tasks), folder)


def _find_network(source: str, weights: str | None) -> Found:
    from classy_vision.cli.predict import network
    from classy_vision.cli.show import read_model
    from classy_vision.models import build_model
    from classy_vision.predict.predictor import expected_data, task_of
    from classy_vision.weights.catalogue import is_published, published

    known = next((name for name in (weights, source) if name and is_published(name)), None)
    entry = published(known) if known else None
    if weights is not None:
        config = network(weights, source)
    else:
        config = {"name": source} if is_published(source) else read_model(source).config
    given = weights or (source if is_published(source) else None)
    loaded = {"source": given, "skip_heads": ()} if given else None
    model = build_model({**config, "weights": loaded} if loaded else config)
    try:
        data = expected_data(model, entry)
    except ConfigError:  # it takes no images
        data = None
    try:
        task = task_of(model, entry)
        heads = _heads({task.name: task})
    except ConfigError:  # features, or several heads of which nobody said what they mean
        heads = {}
    return Found(model, data, heads, is_initial=given is None)


def _heads(tasks: Any) -> dict[str, Head]:
    from classy_vision.export import Head

    return {name: Head(kind=task.config.kind, classes=task.classes) for name, task in tasks.items()}


def _resized(data: DataConfig | None, side: int | None) -> DataConfig | None:
    """``data`` for images of another size; what is cut off by the crop stays the same part."""
    if data is None or side is None:
        return data
    ratio = side / data.side(training=False)
    resize = data.resize
    if isinstance(resize, int):
        resize = max(side, round(resize * ratio))
    elif resize is not None:
        resize = (max(side, round(resize[0] * ratio)), max(side, round(resize[1] * ratio)))
    return data.model_copy(update={"image_size": side, "eval_size": None, "resize": resize})


def _example(found: Found, data: DataConfig | None, image_size: int | None) -> Any:
    import torch

    shape = found.model.input_shape
    if data is not None:
        return torch.empty(1, *data.input_shape(shape[0], training=False), device="meta")
    if image_size is not None and len(shape) < 3:
        raise ConfigError(f"--image-size {image_size}: the model takes {shape[0]} values, not images")
    side = () if image_size is None else (image_size, image_size)
    return torch.empty(1, *shape[: len(shape) - len(side)], *side, device="meta")


def _calibration(found: Found, data: DataConfig | None, max_loss: float) -> Any:
    """How a run is quantised: its data are read again."""
    assert found.run is not None
    from classy_vision.predict.exported import calibrate
    from classy_vision.train.job import prepare
    from classy_vision.train.run_folder import RunFolder

    settings = RunFolder(found.run).settings()
    if data is not None:
        settings = settings.model_copy(update={"data": data})
    return calibrate(prepare(settings), max_loss)


def _print(done: Exported, found: Found) -> None:
    from classy_vision.export.formats import FORMATS
    from classy_vision.export.verify import time_answers

    artefact = done.artefact
    metadata = artefact.metadata
    sizes = ", ".join("any" if size is None else str(size) for size in metadata.input_shape[1:])
    endings = (artefact.path.suffix, *FORMATS[metadata.format].beside)
    size = sum(artefact.path.with_suffix(ending).stat().st_size for ending in endings)
    print(f"{artefact.path}: {metadata.format}, {metadata.precision}, {size / 1e6:.2f} MB")
    print(f"  takes   (n, {sizes}), n from 1 to {metadata.max_batch}")
    for name, head in metadata.heads.items():
        classes = f", {len(head.classes)} classes" if head.classes else ""
        print(f"  head    {name}: {head.kind or 'meaning not known'}{classes}")
    if done.difference is not None:
        tried = " ".join("x".join(map(str, shape)) for shape in done.shapes)
        print(f"  checked {tried}: at most {done.difference:.1e} from the model")
    milliseconds, start = time_answers(artefact)
    first = "" if start is None else f"; the first answer comes {start:.1f} s after a process starts"
    print(f"  takes   {milliseconds:.2f} ms for one input{first}")
    if done.needs_trust:
        print("  Reading it takes --trust, or load_exported(..., trust=True).")
    for name, before in done.before.items():
        after = done.after[name]
        print(f"  checked {name}: {before:.2f} points before, {after:.2f} in int8 ({after - before:+.2f})")
    if found.is_initial:
        print("  The weights are random: --weights, or a run folder, has others.")
