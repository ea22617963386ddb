"""The kinds of tasks: how labels are encoded, what is minimised, what is measured and shown.

Numbers are learned standardised, and said in the units of the table. While a model trains, the heads of a
regression give (number - mean) / std, so that a learning rate serves numbers of any size. Once it is trained,
their last layers take that back (``to_units``): whoever loads the weights, exports them or predicts with them
gets numbers in the units of the table, and needs to know nothing of this.

Axes: n samples, k outputs, h height, w width, p pixels.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    interpolate,
    l1_loss,
    logsigmoid,
    one_hot,
    smooth_l1_loss,
)

from classy_vision.config import ConfigError, unknown
from classy_vision.data.masks import Cell, ClassMasks, NumberMaps, PixelLabels
from classy_vision.heads import ClassyHead
from classy_vision.models import ClassyModel
from classy_vision.train.config import NUMBERS, TaskConfig
from classy_vision.train.metrics import (
    F1,
    R2,
    AbsoluteRelativeError,
    Accuracy,
    Delta1,
    MeanAbsoluteError,
    MeanAveragePrecision,
    MeanIoU,
    Metric,
    PixelAccuracy,
    RootMeanSquaredError,
)

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
    dense: ClassVar[bool] = False
    """Whether it has a label for each pixel."""
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

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether outputs of ``shape`` are those of the task."""
        return tuple(shape[1:]) == (self.outputs,)

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

    def in_units(self) -> Task:
        """The task for a model that gives numbers in the units of the table."""
        if self.config.kind not in NUMBERS:
            return self
        return type(self)(self.name, self.config.model_copy(update={"mean": 0.0, "std": 1.0}))

    def with_statistics(self, targets: Callable[[], Tensor], convertible: bool) -> Task:
        """The task with what depends on the targets of the training split: how common classes are, the mean.

        Args:
            targets: gives them, where they are needed: (n,) or (n, k); of pixels (p,), those of some images.
            convertible: whether the head can be made to give numbers in the units of the table.
        """
        return self

    def convert(self, outputs: Tensor) -> Tensor:
        """Outputs of a model in training as a trained one gives them."""
        return outputs

    def class_weights(self, like: Tensor) -> Tensor | None:
        """What losses of each class are multiplied by in training, (k,); None where all are alike."""
        given = self.config.class_weights
        if not isinstance(given, dict):
            return None
        return like.new_tensor([given.get(label, 1.0) for label in self.classes])

    def _balance(self, targets: Callable[[], Tensor], missing: float) -> Task:
        """The task with "balanced" weights as numbers: n / (k n_c), as in scikit-learn."""
        if self.config.class_weights != "balanced":
            return self
        codes = targets()
        counts = torch.bincount(codes[codes != missing].long(), minlength=self.outputs).tolist()
        named = zip(self.classes, counts)
        weights = {name: sum(counts) / (len(counts) * count) for name, count in named if count}
        return type(self)(self.name, self.config.model_copy(update={"class_weights": weights}))

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
        return ~(targets.flatten(1)[:, 0] if targets.dim() > 1 else targets).isnan()

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
        smoothing, weights = self.config.label_smoothing, self.class_weights(outputs)
        if self.config.loss == "bce":
            return self._binary_losses(outputs, targets, smoothing, weights)
        losses = cross_entropy(outputs, targets, weights, reduction="none", label_smoothing=smoothing)
        return losses if self.config.loss != "focal" else losses * self._doubts(outputs, targets)

    def _binary_losses(
        self, outputs: Tensor, targets: Tensor, smoothing: float, weights: Tensor | None
    ) -> Tensor:
        """(n, k) to (n,): the sum over classes of whether each is there."""
        known = self.valid(targets)
        wanted = one_hot(targets.where(known, 0), self.outputs).to(outputs)
        wanted = wanted * (1 - smoothing) + smoothing / self.outputs
        losses = binary_cross_entropy_with_logits(outputs, wanted, weights, reduction="none")
        return losses.sum(1) * known

    def _doubts(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What the focal loss multiplies by, (n,): small where the class is already likely."""
        known = targets.where(self.valid(targets), 0)
        likely = outputs.softmax(1).gather(1, known[:, None])[:, 0]
        return (1 - likely) ** self.config.gamma

    def with_statistics(self, targets: Callable[[], Tensor], convertible: bool) -> Task:
        return self._balance(targets, self.missing)

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

    def training_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = targets.nan_to_num()
        losses = binary_cross_entropy_with_logits(outputs, wanted, reduction="none")
        if self.config.loss == "focal":
            losses = losses * (outputs.sigmoid() - wanted).abs() ** self.config.gamma
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


class _Numbers(Task):
    """Numbers that training standardises, so that 1 is as good as the mean.

    Attributes:
        mean, std: of the numbers.
    """

    has_classes = False

    @property
    def outputs(self) -> int:
        return 1

    @property
    def mean(self) -> float:
        return self.config.mean or 0.0

    @property
    def std(self) -> float:
        return self.config.std or 1.0

    def with_statistics(self, targets: Callable[[], Tensor], convertible: bool) -> Task:
        if not convertible and (self.mean, self.std) != (0.0, 1.0):
            raise ConfigError(
                f"tasks.{self.name}: mean = {self.mean:g} and std = {self.std:g}, but the last layers of this "
                f"head cannot turn standardised numbers into the units of the table: leave mean and std out"
            )
        if not convertible or None not in (self.config.mean, self.config.std):
            return self
        numbers = targets()
        known = numbers[~numbers.isnan()].double()
        mean, std = float(known.mean()), float(known.std(correction=0))
        found = {"mean": mean, "std": std or 1.0}
        given = {name: value for name in found if (value := getattr(self.config, name)) is not None}
        return type(self)(self.name, self.config.model_copy(update={**found, **given}))

    def convert(self, outputs: Tensor) -> Tensor:
        return outputs * self.std + self.mean


class Regression(_Numbers):
    """A number; mean squared error of what is standardised."""

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


# -- a label for each pixel


class DenseTask(Task):
    """A label for each pixel; a head gives outputs (n, k, h, w) at any stride, which are resized to the labels.

    A cell is the file of an image's labels, and its target whether there is one. The methods that take
    targets take labels of pixels, (n, h, w). Losses are means over the pixels of each image that have a label.
    """

    dense = True

    def fits(self, shape: Sequence[int]) -> bool:
        return len(shape) == 4 and shape[1] == self.outputs

    @staticmethod
    def labels(cell: Any) -> list[str]:
        return ["labelled"]  # which a split balances

    def encode(self, cell: Any) -> bool:
        return cell is not None

    @abstractmethod
    def open(self, cells: Sequence[Cell]) -> PixelLabels:
        """The labels of pixels in files."""

    @abstractmethod
    def known(self, targets: Tensor) -> Tensor:
        """Which pixels have a label: bool, in the shape of ``targets``."""

    def valid(self, targets: Tensor) -> Tensor:
        return self.known(targets).flatten(1).any(1)

    def average(self, outputs: Tensor) -> Tensor:
        raise AssertionError("images with labels of pixels have one view")

    def mean_over_pixels(self, losses: Tensor, targets: Tensor) -> Tensor:
        """(n, h, w) to (n,), over the pixels that have a label."""
        known = self.known(targets)
        return (losses * known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)


class Segmentation(DenseTask):
    """One of k classes for each pixel; cross-entropy, Dice or their sum."""

    def open(self, cells: Sequence[Cell]) -> PixelLabels:
        return ClassMasks(cells, self.classes, self.config.ignore_index)

    def known(self, targets: Tensor) -> Tensor:
        return targets != self.config.ignore_index

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._losses(outputs, targets, None)

    def training_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._losses(outputs, targets, self.class_weights(outputs))

    def _losses(self, outputs: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        logits, wanted, loss = resize_to(outputs, targets), targets.long(), self.config.loss or "cross_entropy"
        total = outputs.new_zeros(len(outputs))
        if "cross_entropy" in loss:
            ignore = self.config.ignore_index
            of_pixels = cross_entropy(logits, wanted, weights, ignore_index=ignore, reduction="none")
            total = total + self.mean_over_pixels(of_pixels, targets)
        if "dice" in loss:
            total = total + dice_losses(logits, wanted, self.known(targets), weights)
        return total

    def with_statistics(self, targets: Callable[[], Tensor], convertible: bool) -> Task:
        return self._balance(targets, self.config.ignore_index)

    def comparable(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The predicted and the true class of each pixel that has one, (p,)."""
        known = self.known(targets)
        return resize_to(outputs, targets).argmax(1)[known], targets[known].long()

    def metrics(self) -> dict[str, Metric]:
        return {"mIoU": MeanIoU(self.classes), "pixel_accuracy": PixelAccuracy()}

    def say(self, output: Tensor) -> str:
        return self._say_classes(output.argmax(0))

    def say_target(self, target: Tensor) -> str:
        known = target[self.known(target)]
        return self._say_classes(known) if len(known) else DASH

    def _say_classes(self, codes: Tensor) -> str:
        """The classes of pixels, those of most pixels first."""
        counts = torch.bincount(codes.flatten().long(), minlength=self.outputs)
        return ", ".join(self.classes[code] for code in counts.argsort(descending=True) if counts[code])


class DenseRegression(_Numbers, DenseTask):
    """A number for each pixel; L1, Huber, or scale-invariant."""

    def open(self, cells: Sequence[Cell]) -> PixelLabels:
        positive = self.config.loss == "scale_invariant"
        return NumberMaps(cells, self.config.missing, self.config.scale, positive)

    def known(self, targets: Tensor) -> Tensor:
        return ~targets.isnan()

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found = resize_to(outputs, targets)[:, 0]
        if self.config.loss == "scale_invariant":
            return self._scale_invariant(self.convert(found), targets)
        wanted = torch.where(self.known(targets), (targets - self.mean) / self.std, found.detach())
        loss = smooth_l1_loss if self.config.loss == "huber" else l1_loss
        return self.mean_over_pixels(loss(found, wanted, reduction="none"), targets)

    def _scale_invariant(self, found: Tensor, targets: Tensor) -> Tensor:
        """The mean square of the logarithms of quotients, less half the square of their mean (Eigen, 2014)."""
        known = self.known(targets)
        apart = torch.where(known, extended_log(found) - extended_log(targets.nan_to_num(1.0)), 0.0)
        mean = self.mean_over_pixels(apart, targets)
        return self.mean_over_pixels(apart.square(), targets) - 0.5 * mean.square()

    def comparable(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The predicted and the true number of each pixel that has one, (p,)."""
        known = self.known(targets)
        return resize_to(outputs, targets)[:, 0][known], targets[known]

    def metrics(self) -> dict[str, Metric]:
        return {"rmse": RootMeanSquaredError(), "abs_rel": AbsoluteRelativeError(), "delta1": Delta1()}

    def say(self, output: Tensor) -> str:
        return self.say_target(output)

    def say_target(self, target: Tensor) -> str:
        known = target[~target.isnan()]
        return f"{known.min():.3g} to {known.max():.3g}" if len(known) else DASH


def resize_to(outputs: Tensor, targets: Tensor) -> Tensor:
    """Outputs (n, k, h', w') in the size of targets (n, h, w), bilinearly."""
    size = targets.shape[-2:]
    if outputs.shape[-2:] == size:
        return outputs
    return interpolate(outputs, size, mode="bilinear", align_corners=False)


def dice_losses(logits: Tensor, targets: Tensor, known: Tensor, weights: Tensor | None = None) -> Tensor:
    """One less the mean Dice coefficient of the classes in each image (Milletari et al., "V-Net", 2016).

    Args:
        logits: (n, k, h, w).
        targets: (n, h, w).
        known: which pixels count, (n, h, w).
        weights: of the classes in that mean, (k,).

    Returns:
        (n,), 0 of images without a class.
    """
    likely = (logits.softmax(1) * known[:, None]).flatten(2)
    codes, nothing = torch.where(known, targets, 0).flatten(1), logits.new_zeros(logits.shape[:2])
    both = nothing.scatter_add(1, codes, likely.gather(1, codes[:, None])[:, 0])
    counts = nothing.scatter_add(1, codes, known.flatten(1).to(logits))
    missed = 1 - 2 * both / (likely.sum(2) + counts).clamp(min=1e-6)
    there = (counts > 0).to(logits) * (1 if weights is None else weights)
    return (missed * there).sum(1) / there.sum(1).clamp(min=1e-6)


def extended_log(x: Tensor, least: float = 1e-3) -> Tensor:
    """The logarithm, which below ``least`` goes on along its tangent, so that every number has one."""
    return torch.where(x > least, x.clamp(min=least).log(), math.log(least) + (x - least) / least)


KINDS: dict[str, type[Task]] = {
    "classification": Classification,
    "multilabel": Multilabel,
    "regression": Regression,
    "segmentation": Segmentation,
    "dense_regression": DenseRegression,
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
        assert layer.bias is not None  # as ``can_convert`` found
        layer.weight.mul_(task.std)
        layer.bias.mul_(task.std).add_(task.mean)


@torch.no_grad()
def standardize(model: ClassyModel, tasks: Mapping[str, Task]) -> None:
    """Makes heads that give numbers in the units of the table give them standardised."""
    for layer, task in _regression_layers(model, tasks):
        assert layer.bias is not None
        layer.weight.div_(task.std)
        layer.bias.sub_(task.mean).div_(task.std)


def can_convert(head: ClassyHead) -> bool:
    """Whether the last layers of a head can turn standardised numbers into the units of the table."""
    layers = head.output_layers()
    return bool(layers) and all(layer.bias is not None for layer in layers)


def _regression_layers(
    model: ClassyModel, tasks: Mapping[str, Task]
) -> Iterator[tuple[nn.Linear | nn.Conv2d, _Numbers]]:
    for entries in model.get_heads().values():
        for head in entries:
            task = tasks.get(str(head.unique_id))
            if isinstance(task, _Numbers) and can_convert(head):
                yield from ((layer, task) for layer in head.output_layers())
