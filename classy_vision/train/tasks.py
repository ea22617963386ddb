"""The kinds of tasks: how labels are encoded, what is minimised, what is measured and shown.

Numbers are learned standardised, and said in the units of the table. While a model trains, the heads of a
regression give (number - mean) / std, so that a learning rate serves numbers of any size. Once it is trained,
their last layers take that back (``to_units``): whoever loads the weights, exports them or predicts with them
gets numbers in the units of the table, and needs to know nothing of this.

Axes: n samples, k outputs.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from classy_vision.config import ConfigError, unknown
from classy_vision.models import ClassyModel
from classy_vision.train.config import TaskConfig
from classy_vision.train.metrics import F1, R2, Accuracy, MeanAbsoluteError, MeanAveragePrecision, Metric

DASH = "-"
WHOLE_NUMBER = re.compile(r"-?[0-9]{1,100}")
"""What ``int`` reads for certain: str.isdigit also takes "²", and int refuses thousands of digits."""


class Task(ABC):
    """What one head learns.

    Args:
        name: the head's id.
        config: with ``target`` and, for kinds that have them, ``classes``.
    """

    has_classes: ClassVar[bool] = True
    missing: ClassVar[float] = math.nan
    """What stands for a label that is not there."""

    def __init__(self, name: str, config: TaskConfig) -> None:
        self.name = name
        self.config = config
        self.classes = config.classes or ()
        self._codes = {label: code for code, label in enumerate(self.classes)}

    @property
    def outputs(self) -> int:
        """The ``num_classes`` of the head."""
        return len(self.classes)

    @staticmethod
    @abstractmethod
    def labels(cell: Any) -> list[str]:
        """The names in a cell."""

    @abstractmethod
    def encode(self, cell: Any) -> Any:
        """The target of a cell, of which None is a missing one.

        Raises:
            ConfigError: it is not one of the classes, or not a number.
        """

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(n, k) and targets to (n,); 0 where the label is missing."""

    def training_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What training minimises: ``losses``, unless it regularises them."""
        return self.losses(outputs, targets)

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """What is measured of samples that have labels."""

    @abstractmethod
    def average(self, outputs: Tensor) -> Tensor:
        """Outputs of the views of a sample (n, v, k) to one that stands for all of them, (n, k).

        Its probabilities are the averages of theirs, as video models are tested (Wang et al.,
        "Non-local Neural Networks", 2018, section 5.1), and it is made of logits, as the losses
        and metrics take them.
        """

    def with_statistics(self, targets: Tensor) -> Task:
        """The task with what standardises its numbers, from the targets of the training split."""
        return self

    def convert(self, outputs: Tensor) -> Tensor:
        """Outputs of a model in training as a trained one gives them."""
        return outputs

    def comparable(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and targets as the metrics take them."""
        return outputs, targets

    @abstractmethod
    def say(self, output: Tensor) -> str:
        """One output (k,) in words."""

    @abstractmethod
    def say_target(self, target: Tensor) -> str:
        """One target in words; a dash where it is missing."""

    def valid(self, targets: Tensor) -> Tensor:
        """Which targets are there: (n,) of bool."""
        return ~targets.reshape(len(targets), -1)[:, 0].isnan()

    def code(self, label: str) -> int:
        """The number of a class."""
        if label not in self._codes:
            raise unknown("class", label, self.classes)
        return self._codes[label]


class Classification(Task):
    """One of k classes; cross-entropy."""

    missing = -100  # what cross_entropy leaves out

    @staticmethod
    def labels(cell: Any) -> list[str]:
        return [as_label(cell)]

    def encode(self, cell: Any) -> int:
        return int(self.missing) if cell is None else self.code(as_label(cell))

    def valid(self, targets: Tensor) -> Tensor:
        return targets != self.missing

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets, reduction="none")

    def training_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.config.label_smoothing
        return cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)

    def average(self, outputs: Tensor) -> Tensor:
        return outputs.log_softmax(2).logsumexp(1) - math.log(outputs.shape[1])

    def metrics(self) -> dict[str, Metric]:
        return {"accuracy": Accuracy()}

    def say(self, output: Tensor) -> str:
        return self.classes[int(output.argmax())]

    def say_target(self, target: Tensor) -> str:
        return DASH if target == self.missing else self.classes[int(target)]


class Multilabel(Task):
    """Any number of k classes at once; binary cross-entropy, averaged over them."""

    @staticmethod
    def labels(cell: Any) -> list[str]:
        parts = (
            cell.split(";") if isinstance(cell, str) else cell if isinstance(cell, (list, tuple)) else [cell]
        )
        return [label for part in parts if (label := as_label(part).strip())]

    def encode(self, cell: Any) -> list[float]:
        if cell is None:
            return [self.missing] * self.outputs
        codes = {self.code(label) for label in self.labels(cell)}
        return [float(code in codes) for code in range(self.outputs)]

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = binary_cross_entropy_with_logits(outputs, targets.nan_to_num(), reduction="none")
        return losses.mean(1) * self.valid(targets)

    def average(self, outputs: Tensor) -> Tensor:
        return logsigmoid(outputs).logsumexp(1) - logsigmoid(-outputs).logsumexp(1)

    def metrics(self) -> dict[str, Metric]:
        return {"mAP": MeanAveragePrecision(self.outputs), "f1": F1(self.outputs)}

    def say(self, output: Tensor) -> str:
        return self.say_target((output > 0).float())

    def say_target(self, target: Tensor) -> str:
        if target[0].isnan():
            return DASH
        return ", ".join(label for label, on in zip(self.classes, target) if on) or "none"


class Regression(Task):
    """A number; mean squared error of what is standardised, so that 1 is as good as the mean.

    Attributes:
        mean, std: of the numbers that training standardises.
    """

    has_classes = False

    @property
    def mean(self) -> float:
        return self.config.mean or 0.0

    @property
    def std(self) -> float:
        return self.config.std or 1.0

    def with_statistics(self, targets: Tensor) -> Task:
        known = targets[self.valid(targets)].double()
        mean, std = float(known.mean()), float(known.std(correction=0))
        found = {"mean": mean, "std": std or 1.0}
        given = {name: value for name in found if (value := getattr(self.config, name)) is not None}
        return Regression(self.name, self.config.model_copy(update={**found, **given}))

    def convert(self, outputs: Tensor) -> Tensor:
        return outputs * self.std + self.mean

    @property
    def outputs(self) -> int:
        return 1

    @staticmethod
    def labels(cell: Any) -> list[str]:
        return []

    def encode(self, cell: Any) -> float:
        if cell is None:
            return self.missing
        try:
            number = float(cell)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise ConfigError(f"{cell!r} is not a finite number")
        return number

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = (targets.nan_to_num() - self.mean) / self.std
        return (outputs[:, 0] - wanted).square() * self.valid(targets)

    def average(self, outputs: Tensor) -> Tensor:
        return outputs.mean(1)

    def comparable(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return outputs[:, 0], targets

    def metrics(self) -> dict[str, Metric]:
        return {"mae": MeanAbsoluteError(), "r2": R2()}

    def say(self, output: Tensor) -> str:
        return f"{output[0].item():.4g}"

    def say_target(self, target: Tensor) -> str:
        return DASH if target.isnan() else f"{target.item():.4g}"


KINDS: dict[str, type[Task]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "regression": Regression,
}


def as_label(cell: Any) -> str:
    """The name of a class as a text: 3, 3.0 and "3" are the same."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell)


def find_classes(kind: type[Task], cells: Iterable[Any]) -> tuple[str, ...]:
    """The names in ``cells``, sorted as numbers where all are."""
    found = {label for cell in cells if cell is not None for label in kind.labels(cell)}
    numeric = all(WHOLE_NUMBER.fullmatch(label) for label in found)
    return tuple(sorted(found, key=int) if numeric else sorted(found))


# -- models with tasks


def run_views(model: Callable[[Tensor], Any], views: Tensor, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """Runs a model on the views of samples, and averages what it says of each view.

    Args:
        model: with the heads of ``tasks``.
        views: (n, v, c, h, w) or (n, v, c, t, h, w).
        tasks: by head.

    Returns:
        (n, k) by head, in float32.
    """
    return average_views(model(views.flatten(0, 1)), views.shape[1], tasks)


def average_views(outputs: Any, views: int, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """Averages a model's outputs for n samples of ``views`` views each, and returns (n, k) by head."""
    named = name_outputs(outputs, tasks)
    if views == 1:
        return named
    return {
        head: task.average(named[head].reshape(len(named[head]) // views, views, -1))
        for head, task in tasks.items()
    }


def name_outputs(outputs: Any, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """A model's outputs by head id, also where there is only one, in float32."""
    named = outputs if isinstance(outputs, dict) else dict.fromkeys(tasks, outputs)
    return {head: named[head].float() for head in tasks}


@torch.no_grad()
def to_units(model: ClassyModel, tasks: Mapping[str, Task]) -> None:
    """Makes heads that give standardised numbers give them in the units of the table."""
    for layer, task in _regression_layers(model, tasks):
        layer.weight.mul_(task.std)
        layer.bias.mul_(task.std).add_(task.mean)


@torch.no_grad()
def standardize(model: ClassyModel, tasks: Mapping[str, Task]) -> None:
    """Makes heads that give numbers in the units of the table give them standardised."""
    for layer, task in _regression_layers(model, tasks):
        layer.weight.div_(task.std)
        layer.bias.sub_(task.mean).div_(task.std)


def _regression_layers(model: ClassyModel, tasks: Mapping[str, Task]) -> Iterator[tuple[nn.Linear, Regression]]:
    for entries in model.get_heads().values():
        for head in entries:
            task = tasks.get(str(head.unique_id))
            if isinstance(task, Regression):
                yield from ((layer, task) for layer in head.output_layers())
