"""``classy predict``: labels for images or videos, from anything that was trained."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from enum import Enum
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.failures import INTERRUPTED
from classy_vision.cli.options import (
    BATCH_SIZE,
    OUTPUT,
    TRAINED,
    BatchSizeOption,
    DeviceOption,
    TrustOption,
    WorkersOption,
    training_packages,
)
from classy_vision.errors import ConfigError

if TYPE_CHECKING:
    from classy_vision.predict import Prediction, Predictor
    from classy_vision.predict.array_predictor import ArrayPredictor

    AnyPredictor = Predictor | ArrayPredictor


class PredictionFormat(str, Enum):
    """How predictions are written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


Word = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help=f"The model: {TRAINED}. It is left out with --weights."),
]
Files = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILE", help="Images, or videos if the model takes videos, or folders of them."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Instead of MODEL: published weights (see classy weights list), or a file of weights.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="The model that --weights are for. The name of published weights also says how to prepare images "
        "and what the classes are called.",
    ),
]
Top = Annotated[int, typer.Option(min=1, metavar="N", help="Print at most this many labels per head.")]
FormatOption = Annotated[
    PredictionFormat,
    typer.Option(
        metavar="table|json|jsonl|csv",
        help="Print a table, JSON, a line of JSON per file, or CSV.",
        rich_help_panel=OUTPUT,
    ),
]


OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Write answers for each pixel to files in this folder: masks as indexed PNG, numbers as TIFF. "
        "Images that are done there are left out.",
        rich_help_panel=OUTPUT,
    ),
]


def predict(
    run: Word = None,
    images: Files = None,
    weights: Weights = None,
    model: Model = None,
    trust: TrustOption = False,
    top: Top = 5,
    format: FormatOption = PredictionFormat.TABLE,
    output: OutputOption = None,
    device: DeviceOption = None,
    batch_size: BatchSizeOption = BATCH_SIZE,
    workers: WorkersOption = None,
) -> None:
    """Print the most probable labels of images or videos, and their probabilities, for each head.

    Rows are printed as soon as they are there. A file that cannot be read has its error in their place; the
    exit code is 1 then.
    """
    predictor, files = _read_arguments(run, images, weights, model, device, trust)
    from classy_vision.data.files import walk

    for argument in files:  # before any work is done
        next(walk(argument, predictor.unit))
    failed = False
    found = predictor.predict(files, top, batch_size=batch_size, workers=workers)
    if output is not None:
        from classy_vision.predict.files import write_predictions

        name, options = str(weights or run), {"batch_size": batch_size, "workers": workers}
        found = write_predictions(predictor, files, output, top, model=name, **options)
    try:
        with (
            closing(found) as predictions,
            _WRITERS[format](predictor) as write,
        ):
            for prediction in predictions:
                write(prediction)
                sys.stdout.flush()
                failed = failed or prediction.error is not None
    except KeyboardInterrupt:
        typer.echo("stopped; what was printed is complete", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if failed:
        raise typer.Exit(1)


def _read_arguments(
    run: str | None,
    images: list[str] | None,
    weights: str | None,
    model: str | None,
    device: str | None,
    trust: bool,
) -> tuple[AnyPredictor, list[str]]:
    """Loads what predicts, and lists the files."""
    if weights is None:
        if model is not None:
            raise ConfigError("--model is for --weights: other models describe themselves")
        if not run or not images:
            raise ConfigError("give a model and files, or --weights and files")
        return _load(run, device, trust), images
    if not run:
        raise ConfigError("give files of images or videos after --weights")
    with training_packages():
        from classy_vision.predict.predictor import Predictor
    config = None if model is None else _find_network(weights, model)
    return Predictor.of_weights(weights, config, device=device), [run, *(images or ())]


def _load(word: str, device: str | None, trust: bool) -> AnyPredictor:
    """Loads anything that was trained; torch is imported only if it is needed."""
    from classy_vision.resolve import TRAINED, resolve

    source = resolve(word, TRAINED, "classy predict")
    takes_arrays = source.path is not None and source.path.suffix in (".onnx", ".xml")
    if takes_arrays and device in (None, "cpu") and (found := _load_arrays(word)):
        return found
    with training_packages():
        from classy_vision.predict.predictor import Predictor
    return Predictor.load(word, device=device, trust=trust)


def _load_arrays(path: str) -> ArrayPredictor | None:
    """Loads an ONNX or OpenVINO file of images; None for videos and several crops, which take torch."""
    from classy_vision.export.exported_model import load_exported
    from classy_vision.predict.array_predictor import ArrayPredictor, input_of

    exported = load_exported(path)
    data = input_of(exported)
    return None if data.clip or data.views > 1 else ArrayPredictor(exported, data)


def _find_network(weights: str, model: str) -> dict[str, Any]:
    """Returns the config of --model, with the heads that are in the file."""
    from classy_vision.identify.networks import find_network_of
    from classy_vision.trunk.loading import find_source
    from classy_vision.weights.files import read_tensors

    return find_network_of(read_tensors(find_source(weights)), model, "--model")


# -- writers: each yields a function that writes one prediction, and ends what it began


Write = Callable[["Prediction"], object]


@contextmanager
def _write_table(predictor: AnyPredictor) -> Iterator[Write]:
    """Writes columns, as wide as the labels and the first name need."""
    from classy_vision.text import percent

    labels = [label for task in predictor.tasks.values() for label in task.classes]
    label_wide = min(40, max(map(len, ["label", *labels])))
    head_wide = max(map(len, ["head", *predictor.tasks]))
    name_wide = 0

    def line(name: str, head: str, label: str, probability: str) -> None:
        text = f"{name:{name_wide}}  {head:{head_wide}}  {label:{label_wide}}  {probability:>11}"
        print(text.rstrip())

    def write(prediction: Prediction) -> None:
        nonlocal name_wide
        name = _flatten(prediction.image)
        if not name_wide:
            name_wide = max(len(name), len(predictor.unit))
            line(predictor.unit, "head", "label", "probability")
        for i, row in enumerate(_list_rows(prediction, predictor.unit)):
            said = f"error: {_flatten(row['error'])}" if row["error"] else _flatten(row["label"])
            if row["value"] is not None:
                said = f"{row['value']:.4g}"
            probability = "" if row["probability"] is None else percent(row["probability"])
            head = row["head"] if row["rank"] in (1, None) else ""
            line("" if i else name, head or "", said, probability)

    yield write


@contextmanager
def _write_json(predictor: AnyPredictor) -> Iterator[Write]:
    """Writes a list that is valid wherever it is stopped."""
    print("[", end="")
    comma = ""

    def write(prediction: Prediction) -> None:
        nonlocal comma
        text = indent(json.dumps(prediction.as_dict(predictor.unit), indent=2), "  ")
        sys.stdout.write(f"{comma}\n{text}")
        comma = ","

    try:
        yield write
    finally:
        print("\n]")


@contextmanager
def _write_lines(predictor: AnyPredictor) -> Iterator[Write]:
    yield lambda prediction: print(json.dumps(prediction.as_dict(predictor.unit)))


@contextmanager
def _write_csv(predictor: AnyPredictor) -> Iterator[Write]:
    unit = predictor.unit
    names = [unit, "head", "rank", "label", "probability", "value", "error"]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    yield lambda prediction: writer.writerows(_list_rows(prediction, unit))


def _list_rows(prediction: Prediction, unit: str) -> Iterator[dict[str, Any]]:
    """Yields a row per label or number, or one that holds the error."""
    empty = dict.fromkeys(("head", "rank", "probability", "value"))
    row = {unit: _escape(prediction.image), **empty, "label": "", "error": ""}
    if prediction.error:
        yield {**row, "error": _escape(prediction.error)}
    for head, answer in prediction.answers.items():
        if answer.value is not None:
            yield {**row, "head": head, "value": answer.value}
        if answer.parts:
            yield {**row, "head": head, "label": answer.file or str(answer)}
        for rank, (label, probability) in enumerate(answer.scores, 1):
            yield {**row, "head": head, "rank": rank, "label": label, "probability": probability}


def _escape(text: str) -> str:
    """Escapes bytes in names of files that no encoding has."""
    return text.encode("utf-8", "backslashreplace").decode()


def _flatten(text: str) -> str:
    """Puts a text on one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in _escape(text))


_WRITERS: dict[PredictionFormat, Callable[[AnyPredictor], AbstractContextManager[Write]]] = {
    PredictionFormat.TABLE: _write_table,
    PredictionFormat.JSON: _write_json,
    PredictionFormat.JSONL: _write_lines,
    PredictionFormat.CSV: _write_csv,
}
