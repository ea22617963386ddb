"""Evaluating a model: metrics, every prediction, confusion matrices and the worst mistakes, in a folder."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classy_vision.atomic import replacing_folder
from classy_vision.config import ConfigError, unknown
from classy_vision.evaluate.labelled import Labelled, find_labelled
from classy_vision.evaluate.scores import HeadScores, PixelScores, is_right, score
from classy_vision.predict.prediction import Answer, make_answer
from classy_vision.predict.predictor import Predictor
from classy_vision.predict.streaming import Output
from classy_vision.predict.windows import PixelOutput
from classy_vision.train.tasks import Task

METRICS = "metrics.json"
CLASSES = "metrics.csv"
PREDICTIONS = "predictions.csv"
COLUMNS = ("head", "target", "prediction", "probability", "correct", "loss", "error")
OURS = re.compile(
    r"metrics\.json|metrics\.csv|predictions\.csv|.+\.(confusion\.(csv|png)|(scatter|mistakes)\.png)"
)
"""The names of files in the folder of an evaluation."""
WORST = 24
"""Mistakes that are shown of a head."""
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        model, data, split: what was evaluated, on what.
        heads: what was measured, by head.
        count: images or videos that were read.
        errors: the others, by name, and why.
        unreadable: how many the others are; those of the same name count each time.
        folder: where everything is written, if it was.
    """

    model: str
    data: str
    split: str
    heads: Mapping[str, HeadScores]
    count: int
    errors: Mapping[str, str]
    unreadable: int
    folder: Path | None = None

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Metrics by head."""
        return {head: scores.metrics for head, scores in self.heads.items()}

    def as_dict(self) -> dict[str, Any]:
        """As ``metrics.json`` has it."""
        heads = {
            head: {"kind": s.kind, "labelled": s.count, "metrics": s.metrics, "classes": s.classes}
            for head, s in self.heads.items()
        }
        about = {"model": self.model, "data": self.data, "split": self.split}
        return {**about, "read": self.count, "unreadable": self.unreadable, "heads": heads}


def evaluate(
    model: str | Path | Predictor,
    data: str | Path | None = None,
    *,
    output: str | Path | None = None,
    split: str | None = None,
    heads: Sequence[str] | None = None,
    targets: Mapping[str, str] | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    trust: bool = False,
    force: bool = False,
    progress: Callable[[int], Progress] | None = None,
) -> Evaluation:
    """Measures a model on images or videos with labels.

    Args:
        model: what ``Predictor.load`` takes, or a predictor.
        data: a folder of classes, or a table; by default the run's own.
        output: a folder for the metrics, every prediction, confusion matrices and the worst mistakes. It
            appears once it is complete. None writes nothing.
        split: "train", "validation" or "test": see ``find_labelled``.
        heads: those to evaluate; by default all.
        targets: columns by head, if their names differ from those in training.
        device, batch_size, workers, trust: as for ``Predictor``.
        force: replace an existing evaluation.
        progress: is called with the number of inputs, and returns a function to call with how many are done.

    Raises:
        ConfigError: there is no such model, head or data, labels are missing or unknown to the model, or
            the folder cannot be written.
    """
    place = None if output is None else Path(os.path.expanduser(output))
    if place is not None:
        _check_place(place, force)
    loaded = isinstance(model, Predictor)
    predictor = model if isinstance(model, Predictor) else Predictor.load(model, device=device, trust=trust)
    predictor = _keep_heads(predictor, heads)
    _check_heads(targets or (), predictor, "--target")
    run = None if loaded else os.path.expanduser(str(model))
    labelled = find_labelled(predictor.tasks, predictor.data, run=run, data=data, split=split, targets=targets)
    name = "a predictor" if loaded else str(model)
    tell = progress(len(labelled.inputs)) if progress else lambda done: None
    with replacing_folder(place) if place else nullcontext() as folder:
        outputs = predictor.outputs(labelled.inputs, batch_size=batch_size, workers=workers)
        found, rows, stacked = _run(predictor, labelled, outputs, folder, name, tell)
        if folder is not None:
            _write(folder, found, rows, stacked, predictor, labelled)
    return replace(found, folder=place)


def _keep_heads(predictor: Predictor, heads: Sequence[str] | None) -> Predictor:
    _check_heads(heads or (), predictor)
    # A trained model gives the units of the table: losses are of these, not of standardised numbers.
    tasks = {head: task.in_units() for head, task in predictor.tasks.items() if not heads or head in heads}
    return replace(predictor, tasks=tasks)


def _check_heads(names: Iterable[str], predictor: Predictor, option: str = "") -> None:
    for name in names:
        if name not in predictor.tasks:
            raise unknown("head", name, predictor.tasks, option)


def _run(
    predictor: Predictor,
    labelled: Labelled,
    outputs: Iterator[Output],
    folder: Path | None,
    name: str,
    tell: Progress,
) -> tuple[Evaluation, list[int], dict[str, Tensor]]:
    """Evaluates what can be read, and returns also its rows, and the outputs for these by head."""
    whole = {head: task for head, task in predictor.tasks.items() if not task.dense}
    dense = {head: PixelScores(task) for head, task in predictor.tasks.items() if task.dense}
    kept: dict[str, list[Tensor]] = {head: [] for head in whole}
    rows: list[int] = []
    errors: dict[str, str] = {}
    with _open_table(folder, predictor.unit) as write:
        for row, one in enumerate(outputs):
            answers = _answer_for_pixels(dense, one)
            if one.error:
                errors[one.input.name] = one.error
            else:
                rows.append(row)
                for head in whole:
                    kept[head].append(torch.from_numpy(one.outputs[head]))
                _measure_pixels(dense, answers, labelled, row, one)
            write(_make_rows(predictor, labelled, row, one, answers))
            tell(row + 1)
    if not rows:
        first = ": ".join(next(iter(errors.items())))
        raise ConfigError(f"none of {len(labelled.inputs)} {predictor.unit}s could be read; {first}")
    stacked = {head: torch.stack(one) for head, one in kept.items()}
    heads = {head: _score(head, predictor, labelled, rows, stacked, dense) for head in predictor.tasks}
    unreadable = len(labelled.inputs) - len(rows)
    done = Evaluation(name, labelled.name, labelled.split, heads, len(rows), errors, unreadable)
    return done, rows, stacked


def _score(
    head: str,
    predictor: Predictor,
    labelled: Labelled,
    rows: Sequence[int],
    outputs: Mapping[str, Tensor],
    dense: Mapping[str, PixelScores],
) -> HeadScores:
    task = predictor.tasks[head]
    if head in dense:
        there = dense[head].count > 0
    else:
        targets = labelled.targets[head][rows]
        valid = task.valid(targets)
        there = bool(valid.any())
    if not there:
        raise ConfigError(f"head {head!r}: no {predictor.unit} with a label could be read")
    return dense[head].score() if head in dense else score(task, outputs[head][valid], targets[valid])


def _answer_for_pixels(dense: Mapping[str, PixelScores], one: Output) -> dict[str, Answer]:
    """The answers for each pixel of an image, by head."""
    if one.error or not isinstance(one, PixelOutput):
        return {}
    tasks = {head: scores.task for head, scores in dense.items()}
    return {
        head: make_answer(task.config.kind, task.classes, one.outputs[head], 1, one.size)
        for head, task in tasks.items()
    }


def _measure_pixels(
    dense: Mapping[str, PixelScores],
    answers: Mapping[str, Answer],
    labelled: Labelled,
    row: int,
    one: Output,
) -> None:
    for head, answer in answers.items():
        assert isinstance(one, PixelOutput)
        labels = labelled.dense[head]
        true = labels.read(row, one.input.source, one.size)
        if true is not None and answer.pixels is not None:
            dense[head].update(answer.pixels, labels, true)


# -- every prediction


@contextmanager
def _open_table(folder: Path | None, unit: str) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    if folder is None:
        yield lambda rows: None
        return
    with (folder / PREDICTIONS).open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, [unit, *COLUMNS], restval="", lineterminator="\n")
        writer.writeheader()
        yield writer.writerows


def _make_rows(
    predictor: Predictor, labelled: Labelled, row: int, one: Output, answers: Mapping[str, Answer]
) -> list[dict[str, Any]]:
    """Makes a row per head, or one with the error."""
    name = {predictor.unit: one.input.name}
    if one.error:
        return [{**name, "error": one.error}]
    return [
        {
            **name,
            "head": head,
            **(
                {"prediction": str(answers[head])}
                if head in answers
                else _judge(task, torch.from_numpy(one.outputs[head]), labelled.targets[head][row])
            ),
        }
        for head, task in predictor.tasks.items()
    ]


def _judge(task: Task, output: Tensor, target: Tensor) -> dict[str, Any]:
    answer = make_answer(task.config.kind, task.classes, output.numpy(), top=1)
    prediction = answer.value if answer.value is not None else ";".join(answer.labels)
    found: dict[str, Any] = {"prediction": prediction}
    if answer.kind == "classification":
        found["probability"] = answer.probability
    if task.valid(target[None]).item():
        found["target"] = _decode_target(task, target)
        found["loss"] = task.losses(output[None], target[None]).item()
        if task.has_classes:
            found["correct"] = int(is_right(task, output[None], target[None]).item())
    return found


def _decode_target(task: Task, target: Tensor) -> str | float:
    if not task.has_classes:
        return target.item()
    codes = [int(target)] if target.ndim == 0 else target.nonzero()[:, 0].tolist()
    return ";".join(task.classes[code] for code in codes)


# -- the folder


def _check_place(place: Path, force: bool) -> None:
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not (place / METRICS).is_file() or not (place / PREDICTIONS).is_file():
        raise ConfigError(f"{str(place)!r} exists and is not an evaluation: choose another --output")
    if others := sorted(one.name for one in place.iterdir() if not OURS.fullmatch(one.name)):
        what = f"{others[0]!r} besides an evaluation"
        raise ConfigError(f"{str(place)!r} exists, and holds {what}: choose another --output")
    if not force:
        raise ConfigError(f"{str(place)!r} exists: choose another --output, or replace it by --force")


def _write(
    folder: Path,
    evaluation: Evaluation,
    rows: Sequence[int],
    outputs: Mapping[str, Tensor],
    predictor: Predictor,
    labelled: Labelled,
) -> None:
    from classy_vision.evaluate.figures import draw_confusion, draw_mistakes, draw_numbers

    (folder / METRICS).write_text(json.dumps(evaluation.as_dict(), indent=2) + "\n", encoding="utf-8")
    _write_classes(folder / CLASSES, evaluation.heads)
    for head, scores in evaluation.heads.items():
        task, name = predictor.tasks[head], re.sub(r"[^\w.-]", "_", head)
        targets = labelled.targets[head][rows]
        if scores.confusion is not None:
            _write_confusion(folder / f"{name}.confusion.csv", task, scores)
            (folder / f"{name}.confusion.png").write_bytes(draw_confusion(task, scores))
        elif not task.dense:
            (folder / f"{name}.scatter.png").write_bytes(draw_numbers(task, outputs[head], targets))
        if task.dense:
            continue
        worst = worst_mistakes(task, outputs[head], targets)
        if worst:
            inputs = [labelled.inputs[rows[i]] for i in worst]
            picture = draw_mistakes(predictor, task, inputs, outputs[head][worst], targets[worst])
            (folder / f"{name}.mistakes.png").write_bytes(picture)


def worst_mistakes(task: Task, outputs: Tensor, targets: Tensor) -> list[int]:
    """Which of the samples are wrong, those of the largest loss first; of numbers, any may be wrong."""
    losses = task.losses(outputs, targets)
    wrong = task.valid(targets)
    if task.has_classes:
        wrong = wrong & ~is_right(task, outputs, targets)
    order = losses.argsort(descending=True).tolist()
    return list(islice((row for row in order if wrong[row]), WORST))


def _write_classes(path: Path, heads: Mapping[str, HeadScores]) -> None:
    names = ("head", "class", "precision", "recall", "f1", "iou", "average_precision", "support")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        for head, scores in heads.items():
            writer.writerows({"head": head, "class": n, **values} for n, values in scores.classes.items())


def _write_confusion(path: Path, task: Task, scores: HeadScores) -> None:
    """A row per true class and a column per predicted one; of several labels at once, counts per class."""
    assert scores.confusion is not None
    columns = task.classes
    if scores.kind == "multilabel":
        columns = ("true negatives", "false positives", "false negatives", "true positives")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", *columns])
        writer.writerows([name, *counts] for name, counts in zip(task.classes, scores.confusion.tolist()))
