"""``classy predict``: labels for files of images or videos, from a run, an export or published weights."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.train import training_package
from classy_vision.config import ConfigError

if TYPE_CHECKING:
    from classy_vision.deploy.array_predictor import ArrayPredictor
    from classy_vision.train import Prediction, Predictor


SUFFIXES = (".pt2", ".onnx", ".safetensors")
"""Of files of ``classy export``."""


class Format(str, Enum):
    """How predictions are written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def predict(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|EXPORT",
            help="A finished run folder or a file of classy export, unless there is --weights.",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Images, or videos where the model is of videos, or folders."),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Instead of a run: published weights (see classy weights list), or a file of weights.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|CONFIG",
            help="The network of a file of weights: a name, or a YAML or JSON file. That of published "
            "weights says how to prepare images and what classes are called, too.",
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the machine code in a package of AOTInductor.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="The most labels per head.")] = 5,
    format: Annotated[Format, typer.Option(help="How to write them.")] = Format.TABLE,
) -> None:
    """Print the likeliest labels of images or videos, and their probabilities, for each head.

    A file that cannot be read has its error in their place; the exit code is 1 then.
    """
    if weights is None:
        if model is not None:
            raise ConfigError("--model is for --weights; a run folder knows its model")
        if not run or not images:
            raise ConfigError("give a run folder and files, or --weights and files")
        predictor = _predictor(os.path.expanduser(run), trust)
    else:
        if not run:
            raise ConfigError("give files of images or videos behind --weights")
        images = [run, *(images or ())]
        package = training_package("predict")
        predictor = package.Predictor.of_weights(weights, None if model is None else network(weights, model))
    from classy_vision.train.prediction import find_images

    predictions = list(predictor.predict(find_images(images, predictor.unit), top))
    _WRITERS[format](predictions, predictor.unit)
    if any(prediction.error for prediction in predictions):
        raise typer.Exit(1)


def _predictor(run: str, trust: bool) -> Predictor | ArrayPredictor:
    """Of a run or an exported file; torch is imported where it is needed."""
    if run.endswith(".onnx") and (found := _onnx(run)):
        return found
    if os.path.isfile(run) or run.endswith(SUFFIXES):
        if not os.path.exists(run):
            raise ConfigError(f"no such artefact: {run!r}")
        training_package("predict")
        from classy_vision.deploy.predicting import load_predictor

        return load_predictor(run, trust=trust)
    if not os.path.isdir(run):
        raise ConfigError(f"{run!r} is no run folder: there is no such folder")
    predictor: Predictor = training_package("predict").Predictor.load(run)
    return predictor


def _onnx(path: str) -> ArrayPredictor | None:
    """Of an ONNX file of images; videos are read with torch."""
    from classy_vision.deploy.array_predictor import ArrayPredictor, input_of
    from classy_vision.deploy.artefact import load_artefact

    artefact = load_artefact(path)
    data = input_of(artefact)
    return None if data.clip else ArrayPredictor(artefact, data)


def network(weights: str, model: str) -> dict[str, Any]:
    """The config that --model means, with the heads that are in the file."""
    from classy_vision.cli.convert import network_of
    from classy_vision.models.pretrained import find_source
    from classy_vision.weights.files import read_tensors

    return network_of(read_tensors(find_source(weights)), model)


def _write_table(predictions: Iterable[Prediction], unit: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(unit, "head", "label", "probability")
    table.columns[3].justify = "right"
    for prediction in predictions:
        for i, row in enumerate(_rows(prediction, unit)):
            probability = "" if row["probability"] is None else f"{row['probability']:.2%}"
            name = prediction.image if i == 0 else ""
            head = row["head"] if row["rank"] in (1, None) else ""
            said = f"[red]{_plain(row['error'])}" if row["error"] else _plain(row["label"])
            table.add_row(_plain(name), _plain(head), said, probability)
        table.add_section()
    Console().print(table)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _write_json(predictions: Iterable[Prediction], unit: str) -> None:
    json.dump([_as_json(prediction, unit) for prediction in predictions], sys.stdout, indent=2)
    print()


def _as_json(prediction: Prediction, unit: str) -> dict[str, Any]:
    if prediction.error:
        return {unit: prediction.image, "error": prediction.error}
    heads = {
        head: [{"label": label, "probability": probability} for label, probability in scores]
        for head, scores in prediction.scores.items()
    }
    return {unit: prediction.image, "predictions": heads}


def _write_csv(predictions: Iterable[Prediction], unit: str) -> None:
    names = [unit, "head", "rank", "label", "probability", "error"]
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    for prediction in predictions:
        writer.writerows(_rows(prediction, unit))


def _rows(prediction: Prediction, unit: str) -> Iterator[dict[str, Any]]:
    """A row per label, or one that holds the error."""
    empty = {unit: prediction.image, "head": "", "rank": None, "label": "", "probability": None}
    if prediction.error:
        yield {**empty, "error": prediction.error}
    for head, scores in prediction.scores.items():
        for rank, (label, probability) in enumerate(scores, 1):
            found = {"head": head, "rank": rank, "label": label, "probability": probability}
            yield {**empty, **found, "error": ""}


_WRITERS: dict[Format, Callable[[Iterable[Prediction], str], None]] = {
    Format.TABLE: _write_table,
    Format.JSON: _write_json,
    Format.CSV: _write_csv,
}
