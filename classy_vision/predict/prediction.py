"""What a model says of an input, from the numbers of its heads. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from classy_vision.errors import ConfigError, unknown
from classy_vision.train.config import DENSE, THRESHOLD, Kind

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Answer:
    """What one head says.

    Attributes:
        kind: "classification", "multilabel" or "regression"; with an answer for each pixel "segmentation"
            or "dense_regression".
        scores: pairs of a label and its probability, the likeliest first; of regression there are none.
        value: the number that regression gives, in the unit of its labels; else None.
        labels: the labels that are said to be there: of classification the likeliest, of several labels
            at once those of at least 0.5, also where ``scores`` is cut off before them; of a segmentation
            those of any pixel, the one of most pixels first.
        pixels: an answer for each pixel of the image in its own size, (h, w): numbers of classes in the order
            of the head's, or numbers in float32.
        file: where these were written, if they were; ``pixels`` are left out then.
        parts: of a segmentation, pairs of a class and the part of the pixels that are of it; of dense
            regression the smallest, mean and largest number by these names.
    """

    kind: Kind
    scores: Sequence[tuple[str, float]] = ()
    value: float | None = None
    labels: Sequence[str] = ()
    pixels: Array | None = field(default=None, compare=False, repr=False)
    file: str | None = None
    parts: Sequence[tuple[str, float]] = ()

    @property
    def label(self) -> str | None:
        """The likeliest label; None of regression, and of answers for each pixel."""
        return self.scores[0][0] if self.scores else None

    @property
    def probability(self) -> float | None:
        """Of the likeliest label; None of regression."""
        return self.scores[0][1] if self.scores else None

    def as_dict(self) -> Any:
        """As JSON: a list of labels with their probabilities, or ``{"value": number}``.

        Of an answer for each pixel a mapping of the file, if there is one, and ``parts``.
        """
        if self.kind in DENSE:
            return {**({"file": self.file} if self.file else {}), "pixels": dict(self.parts)}
        if self.kind == "regression":
            return {"value": self.value}
        return [{"label": label, "probability": probability} for label, probability in self.scores]

    def __str__(self) -> str:
        if self.kind in DENSE:
            show = "{} {:.1%}" if self.kind == "segmentation" else "{} {:.4g}"
            return ", ".join(show.format(*part) for part in self.parts)
        if self.value is not None:
            return f"{self.value:.4g}"
        if self.kind == "multilabel":
            return ", ".join(self.labels) or "none"
        return f"{self.label} ({self.probability:.1%})"


@dataclass(frozen=True)
class Prediction:
    """What is said of one input: ``prediction["species"].label``.

    Attributes:
        image: the name of its file, also of a video; "image 0", … of those in memory.
        answers: by head.
        error: why there are none.
    """

    image: str
    answers: Mapping[str, Answer] = field(default_factory=dict)
    error: str | None = None

    def __getitem__(self, head: str) -> Answer:
        if self.error:
            raise ConfigError(f"{self.image}: {self.error}")
        if head not in self.answers:
            raise unknown("head", head, self.answers)
        return self.answers[head]

    @property
    def answer(self) -> Answer:
        """That of the only head.

        Raises:
            ConfigError: there are several, or the input could not be read.
        """
        if not self.error and len(self.answers) != 1:
            names = ", ".join(self.answers)
            raise ConfigError(f"there are {len(self.answers)} heads; take one by its name: {names}")
        return self[next(iter(self.answers), "")]

    @property
    def scores(self) -> dict[str, Sequence[tuple[str, float]]]:
        """Labels and their probabilities by head."""
        return {head: answer.scores for head, answer in self.answers.items()}

    def as_dict(self, unit: str = "image") -> dict[str, Any]:
        """As JSON, the way ``classy predict --format json`` prints it."""
        if self.error:
            return {unit: self.image, "error": self.error}
        return {unit: self.image, "predictions": {h: answer.as_dict() for h, answer in self.answers.items()}}

    def __str__(self) -> str:
        said = self.error or ", ".join(f"{head}: {answer}" for head, answer in self.answers.items())
        return f"{self.image}: {said}"

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows = [("error", self.error)] if self.error else [(h, str(a)) for h, a in self.answers.items()]
        cells = "".join(f"<tr><th>{escape(str(h))}</th><td>{escape(str(said))}</td></tr>" for h, said in rows)
        return f"<table><caption>{escape(self.image)}</caption>{cells}</table>"


# -- from numbers


def make_answer(
    kind: Kind,
    classes: Sequence[str],
    output: Array,
    top: int,
    size: tuple[int, int] | None = None,
) -> Answer:
    """What ``output`` of a head says: (k,), or a map (k, h', w').

    Args:
        kind: of its task.
        classes: their names, in the order of the outputs.
        output: logits, or a number in the unit of the labels.
        top: the most labels.
        size: width and height of the image, for an answer for each pixel; the map's where it is left out.
    """
    if kind in DENSE:
        return _answer_for_pixels(kind, classes, output, size or (output.shape[2], output.shape[1]))
    if kind == "regression":
        return Answer(kind, value=float(output[0]))
    probabilities = _PROBABILITIES[kind](output.astype(np.float32))
    ranked = np.argsort(-probabilities, kind="stable").tolist()
    sure = [code for code in ranked if probabilities[code] >= THRESHOLD] if kind == "multilabel" else ranked[:1]
    scores = tuple((classes[code], float(probabilities[code])) for code in ranked[:top])
    return Answer(kind, scores, labels=tuple(classes[code] for code in sure))


def _answer_for_pixels(kind: Kind, classes: Sequence[str], output: Array, size: tuple[int, int]) -> Answer:
    from classy_vision.predict.windows import find_classes_of_pixels, find_numbers_of_pixels

    if kind == "dense_regression":
        numbers = find_numbers_of_pixels(output, size)
        found = {"min": numbers.min(), "mean": numbers.mean(), "max": numbers.max()}
        return Answer(kind, pixels=numbers, parts=tuple((name, float(n)) for name, n in found.items()))
    codes = find_classes_of_pixels(output, size)
    counts = np.bincount(codes.ravel(), minlength=len(classes))
    there = [code for code in np.argsort(-counts, kind="stable").tolist() if counts[code]]
    parts = tuple((classes[code], float(counts[code] / codes.size)) for code in there)
    return Answer(kind, labels=tuple(classes[code] for code in there), pixels=codes, parts=parts)


def _softmax(x: Array) -> Array:
    raised = np.exp(x - x.max())
    return np.asarray(raised / raised.sum())


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))  # without overflow


_PROBABILITIES: dict[str, Callable[[Array], Array]] = {"classification": _softmax, "multilabel": _sigmoid}
