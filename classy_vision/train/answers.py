"""From the numbers of a head to what it says."""

from __future__ import annotations

import torch
from torch import Tensor

from classy_vision.train.prediction import Answer
from classy_vision.train.tasks import Task

THRESHOLD = 0.5
"""The probability from which on a label of several is said to be there."""


def answer_of(task: Task, output: Tensor, top: int) -> Answer:
    """What ``output`` (k,) of a head says.

    Args:
        task: of the head.
        output: logits, or a number.
        top: the most labels.
    """
    kind = task.config.kind
    if kind == "regression":
        (value,) = task.comparable(output[None], torch.zeros(1))[0].tolist()  # in the unit of the labels
        return Answer(kind, value=value)
    ranked = [(label, float(p)) for label, p in task.scores(output, len(task.classes)) if p is not None]
    sure = [label for label, p in ranked if p >= THRESHOLD] if kind == "multilabel" else [ranked[0][0]]
    return Answer(kind, tuple(ranked[:top]), labels=tuple(sure))
