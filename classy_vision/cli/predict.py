"""``classy predict``: labels for files of images or videos, from anything that was trained."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from enum import Enum
from textwrap import indent
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.train import INTERRUPTED, training_package
from classy_vision.errors import ConfigError, shown

if TYPE_CHECKING:
    from classy_vision.predict import Prediction, Predictor
    from classy_vision.predict.array_predictor import ArrayPredictor

    AnyPredictor = Predictor | ArrayPredictor

BATCH = 32
DEVICE = typer.Option(help="Such as cpu or cuda:1.", show_default="a GPU where there is one")
BATCH_SIZE = typer.Option(min=1, help="Images or clips that the model sees at once.")
WORKERS = typer.Option(min=1, help="Threads that read files.", show_default="one per processor, at most 4")


class Format(str, Enum):
    """How predictions are written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def predict(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A finished run folder, a folder of save_pretrained, a file of classy export or published "
            "weights; none with --weights.",
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
        bool, typer.Option("--trust", help="Read a .pt2 file, which can run any code: only if you know it.")
    ] = False,
    top: Annotated[int, typer.Option(min=1, help="The most labels per head.")] = 5,
    format: Annotated[
        Format, typer.Option(help="How to write them; jsonl is a line of JSON per file.")
    ] = Format.TABLE,
    device: Annotated[str | None, DEVICE] = None,
    batch_size: Annotated[int, BATCH_SIZE] = BATCH,
    workers: Annotated[int | None, WORKERS] = None,
) -> None:
    """Print the likeliest labels of images or videos, and their probabilities, for each head.

    Rows come as the model gives them. A file that cannot be read has its error in their place; the exit
    code is 1 then.
    """
    predictor, files = _read_arguments(run, images, weights, model, device, trust)
    from classy_vision.data.files import walk

    for argument in files:  # before any work is done
        next(walk(argument, predictor.unit))
    failed = False
    try:
        with (
            closing(predictor.predict(files, top, batch_size=batch_size, workers=workers)) as predictions,
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
    """What predicts, and what for."""
    if weights is None:
        if model is not None:
            raise ConfigError("--model is for --weights; a run folder knows its model")
        if not run or not images:
            raise ConfigError("give a run folder and files, or --weights and files")
        return _load(run, device, trust), images
    if not run:
        raise ConfigError("give files of images or videos behind --weights")
    package = training_package("predict", "predictor")
    config = None if model is None else network(weights, model)
    return package.Predictor.of_weights(weights, config, device=device), [run, *(images or ())]


def _load(run: str, device: str | None, trust: bool) -> AnyPredictor:
    """Of anything that was trained; torch is imported where it is needed."""
    check_model(run)
    if run.endswith((".onnx", ".xml")) and device in (None, "cpu") and (found := _onnx(run)):
        return found
    predictor: Predictor = training_package("predict", "predictor").Predictor.load(
        run, device=device, trust=trust
    )
    return predictor


def check_model(name: str) -> None:
    """Raises where nothing is called so, before what takes seconds to import.

    Raises:
        ConfigError: there is no such file, folder or published weights.
    """
    from classy_vision.data.files import EXPORTS
    from classy_vision.weights.catalogue import HUB, is_published

    path = os.path.expanduser(name)
    if os.path.exists(path) or name.startswith(HUB) or is_published(name):
        return
    if path.endswith(EXPORTS):
        raise ConfigError(f"no such artefact: {shown(name)}")
    raise ConfigError(f"{shown(name)} is no run folder: there is no such folder")


def _onnx(path: str) -> ArrayPredictor | None:
    """Of a file for ONNX Runtime or OpenVINO and images; videos are read with torch."""
    from classy_vision.export.exported_model import load_exported
    from classy_vision.predict.array_predictor import ArrayPredictor, input_of

    artefact = load_exported(path)
    data = input_of(artefact)
    return None if data.clip else ArrayPredictor(artefact, data)


def network(weights: str, model: str) -> dict[str, Any]:
    """The config that --model means, with the heads that are in the file."""
    from classy_vision.cli.convert import network_of
    from classy_vision.trunk.pretrained import find_source
    from classy_vision.weights.files import read_tensors

    return network_of(read_tensors(find_source(weights)), model)


# -- how predictions are written: each gives a function for one of them, and ends what it began


Write = Callable[["Prediction"], object]


@contextmanager
def _write_table(predictor: AnyPredictor) -> Iterator[Write]:
    """Text in columns, as wide as the labels and the first name need."""
    labels = [label for task in predictor.tasks.values() for label in task.classes]
    label_wide = min(40, max(map(len, ["label", *labels])))
    head_wide = max(map(len, ["head", *predictor.tasks]))
    name_wide = 0

    def line(name: str, head: str, label: str, probability: str) -> None:
        text = f"{name:{name_wide}}  {head:{head_wide}}  {label:{label_wide}}  {probability:>11}"
        print(text.rstrip())

    def write(prediction: Prediction) -> None:
        nonlocal name_wide
        name = _plain(prediction.image)
        if not name_wide:
            name_wide = max(len(name), len(predictor.unit))
            line(predictor.unit, "head", "label", "probability")
        for i, row in enumerate(_rows(prediction, predictor.unit)):
            said = f"error: {_plain(row['error'])}" if row["error"] else _plain(row["label"])
            if row["value"] is not None:
                said = f"{row['value']:.4g}"
            probability = "" if row["probability"] is None else f"{row['probability']:.2%}"
            head = row["head"] if row["rank"] in (1, None) else ""
            line("" if i else name, head or "", said, probability)

    yield write


@contextmanager
def _write_json(predictor: AnyPredictor) -> Iterator[Write]:
    """A list that is valid wherever it is stopped."""
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
    yield lambda prediction: writer.writerows(_rows(prediction, unit))


def _rows(prediction: Prediction, unit: str) -> Iterator[dict[str, Any]]:
    """A row per label or number, or one that holds the error."""
    empty = dict.fromkeys(("head", "rank", "probability", "value"))
    row = {unit: _encodable(prediction.image), **empty, "label": "", "error": ""}
    if prediction.error:
        yield {**row, "error": _encodable(prediction.error)}
    for head, answer in prediction.answers.items():
        if answer.value is not None:
            yield {**row, "head": head, "value": answer.value}
        for rank, (label, probability) in enumerate(answer.scores, 1):
            yield {**row, "head": head, "rank": rank, "label": label, "probability": probability}


def _encodable(text: str) -> str:
    """Names of files may hold bytes that no encoding has."""
    return text.encode("utf-8", "backslashreplace").decode()


def _plain(text: str) -> str:
    """On one line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in _encodable(text))


_WRITERS: dict[Format, Callable[[AnyPredictor], AbstractContextManager[Write]]] = {
    Format.TABLE: _write_table,
    Format.JSON: _write_json,
    Format.JSONL: _write_lines,
    Format.CSV: _write_csv,
}
