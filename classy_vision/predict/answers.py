"""From the numbers of a head to what it says. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from classy_vision.predict.prediction import Answer
from classy_vision.train.config import THRESHOLD

Array = np.ndarray[Any, Any]


def make_answer(
    kind: Literal["classification", "multilabel", "regression"],
    classes: Sequence[str],
    output: Array,
    top: int,
) -> Answer:
    """What ``output`` (k,) of a head says.

    Args:
        kind: of its task.
        classes: their names, in the order of the outputs.
        output: logits, or a number in the unit of the labels.
        top: the most labels.
    """
    if kind == "regression":
        return Answer(kind, value=float(output[0]))
    probabilities = _PROBABILITIES[kind](output.astype(np.float32))
    ranked = np.argsort(-probabilities, kind="stable").tolist()
    sure = [code for code in ranked if probabilities[code] >= THRESHOLD] if kind == "multilabel" else ranked[:1]
    scores = tuple((classes[code], float(probabilities[code])) for code in ranked[:top])
    return Answer(kind, scores, labels=tuple(classes[code] for code in sure))


def _softmax(x: Array) -> Array:
    raised = np.exp(x - x.max())
    return np.asarray(raised / raised.sum())


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))  # without overflow


_PROBABILITIES: dict[str, Callable[[Array], Array]] = {"classification": _softmax, "multilabel": _sigmoid}
