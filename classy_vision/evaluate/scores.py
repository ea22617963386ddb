"""How good a head is: its metrics, those of each class, and which classes it takes for which.

Axes: n samples that have labels, k outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from classy_vision.data.masks import PixelLabels
from classy_vision.train.config import THRESHOLD
from classy_vision.train.tasks import Task

TOP = 5


@dataclass(frozen=True)
class HeadScores:
    """What was measured of a head.

    Attributes:
        kind: of its task.
        count: how many samples had labels.
        metrics: by name; None where a metric is not defined, as R² of equal numbers.
        classes: precision, recall, F1, support and, of several labels at once, average precision, by class; of
            a segmentation also the IoU, and the support is in pixels.
        confusion: how often (true, said) of classification, (k, k), and in pixels of a segmentation; of
            several labels at once per class true negatives, false positives, false negatives and true
            positives, (k, 4).
    """

    kind: str
    count: int
    metrics: dict[str, float | None]
    classes: dict[str, dict[str, float | None]] = field(default_factory=dict)
    confusion: np.ndarray[Any, Any] | None = None


def score(task: Task, outputs: Tensor, targets: Tensor) -> HeadScores:
    """What outputs (n, k) are worth, given targets that are there, (n,) or (n, k)."""
    kind = task.config.kind
    return _SCORES[kind](task, outputs, targets)


def decode(task: Task, outputs: Tensor) -> Tensor:
    """Codes (n,), labels that are there (n, k), or numbers (n,)."""
    kind = task.config.kind
    if kind == "classification":
        return outputs.argmax(1)
    if kind == "multilabel":
        return (outputs.sigmoid() >= THRESHOLD).long()
    return task.comparable(outputs, torch.zeros(len(outputs)))[0]  # in the unit of the labels


def is_right(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """(n,) of bool; of several labels at once, whether all of them are right."""
    found = decode(task, outputs)
    return (found == targets) if found.ndim == 1 else (found == targets).all(1)


def _score_classes(task: Task, outputs: Tensor, targets: Tensor) -> HeadScores:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    true, found = targets.numpy(), decode(task, outputs).numpy()
    codes = range(task.outputs)
    each = precision_recall_fscore_support(true, found, labels=codes, zero_division=0)
    macro = precision_recall_fscore_support(true, found, average="macro", zero_division=0)
    best = outputs.topk(min(TOP, task.outputs), dim=1).indices
    metrics = {"accuracy": float((true == found).mean())}
    if task.outputs > TOP:
        metrics[f"top{TOP}_accuracy"] = float((best == targets[:, None]).any(1).double().mean())
    metrics["balanced_accuracy"] = float(each[1][each[3] > 0].mean())
    metrics |= dict(zip(("precision", "recall", "f1"), map(float, macro[:3])))
    metrics["log_loss"] = float(torch.nn.functional.cross_entropy(outputs, targets))
    return HeadScores(
        "classification",
        len(true),
        _replace_undefined(metrics),
        _list_by_class(task.classes, each),
        confusion_matrix(true, found, labels=codes),
    )


def _score_labels(task: Task, outputs: Tensor, targets: Tensor) -> HeadScores:
    from sklearn.metrics import (
        average_precision_score,
        multilabel_confusion_matrix,
        precision_recall_fscore_support,
    )

    true, found, likely = targets.long().numpy(), decode(task, outputs).numpy(), outputs.sigmoid().numpy()
    pair, labels = (true, found), list(range(task.outputs))
    if task.outputs == 1:  # which scikit-learn takes for two classes
        pair, labels = (true[:, 0], found[:, 0]), [1]
    each = precision_recall_fscore_support(*pair, labels=labels, average=None, zero_division=0)
    classes = _list_by_class(task.classes, each)
    for k, values in enumerate(classes.values()):
        there = true[:, k].any()
        values["average_precision"] = (
            float(average_precision_score(true[:, k], likely[:, k])) if there else None
        )
    precisions = [v for c in classes.values() if (v := c["average_precision"]) is not None]
    metrics = {"mAP": float(np.mean(precisions)) if precisions else math.nan}
    for average in ("macro", "micro"):
        means = precision_recall_fscore_support(*pair, labels=labels, average=average, zero_division=0)[:3]
        metrics |= {f"{average}_{n}": float(v) for n, v in zip(("precision", "recall", "f1"), means)}
    metrics["exact_match"] = float((true == found).all(1).mean())
    counts = multilabel_confusion_matrix(*pair, labels=labels).reshape(-1, 4)
    return HeadScores("multilabel", len(true), _replace_undefined(metrics), classes, counts)


def _score_numbers(task: Task, outputs: Tensor, targets: Tensor) -> HeadScores:
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    true, found = targets.double().numpy(), decode(task, outputs).double().numpy()
    metrics = {
        "mae": float(mean_absolute_error(true, found)),
        "rmse": math.sqrt(mean_squared_error(true, found)),
        "r2": float(r2_score(true, found)) if len(true) > 1 and np.ptp(true) > 0 else math.nan,
        "bias": float((found - true).mean()),
    }
    return HeadScores("regression", len(true), _replace_undefined(metrics))


class PixelScores:
    """Measures a head with an answer for each pixel, image by image.

    Args:
        task: of the head.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.count = 0
        self._metrics = task.metrics()
        self._confusion = np.zeros((task.outputs, task.outputs), np.int64)

    def update(self, pixels: np.ndarray[Any, Any], labels: PixelLabels, true: np.ndarray[Any, Any]) -> None:
        """Adds an image: its answer (h, w), and its labels, of which ``true`` are the pixels, (h, w)."""
        known = labels.known(true)
        if not known.any():
            return
        self.count += 1
        said, wanted = pixels[known], true[known]
        if self.task.has_classes:
            said, wanted = said.astype(np.int64), wanted.astype(np.int64)
            pairs = np.bincount(wanted * self.task.outputs + said, minlength=self._confusion.size)
            self._confusion += pairs.reshape(self._confusion.shape)
        for metric in self._metrics.values():
            metric.update(torch.from_numpy(said), torch.from_numpy(wanted))

    def score(self) -> HeadScores:
        """What was measured."""
        metrics = _replace_undefined({name: metric.compute() for name, metric in self._metrics.items()})
        kind, counts = self.task.config.kind, self._confusion
        if not self.task.has_classes:
            return HeadScores(kind, self.count, metrics)
        both, said, true = (x.astype(float) for x in (counts.diagonal(), counts.sum(0), counts.sum(1)))
        with np.errstate(invalid="ignore"):  # of a class that is never there or predicted: not defined
            of_class = {
                "precision": both / said,
                "recall": both / true,
                "f1": 2 * both / (said + true),
                "iou": both / (said + true - both),
                "support": true,
            }
        classes = {
            label: _replace_undefined({name: float(values[code]) for name, values in of_class.items()})
            for code, label in enumerate(self.task.classes)
        }
        return HeadScores(kind, self.count, metrics, classes, counts)


_SCORES = {"classification": _score_classes, "multilabel": _score_labels, "regression": _score_numbers}


def _list_by_class(names: Sequence[str], each: Sequence[Any]) -> dict[str, dict[str, float | None]]:
    keys = ("precision", "recall", "f1", "support")
    table = [dict(zip(keys, map(float, values))) for values in zip(*each)]
    return {name: {**values, "support": int(values["support"])} for name, values in zip(names, table)}


def _replace_undefined(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
