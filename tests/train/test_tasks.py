"""Labels, losses and metrics of the kinds of tasks, with labels missing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from classy_vision.config import ConfigError
from classy_vision.train.config import TaskConfig
from classy_vision.train.tasks import KINDS, Task, find_classes

LABELS: dict[str, list[Any]] = {
    "classification": ["b", None, "a", "c"],
    "multilabel": ["a;c", None, ";", ["b"]],
    "regression": ["1.5", None, -2, 0.0],
}
CLASSES = {"classification": ("a", "b", "c"), "multilabel": ("a", "b", "c"), "regression": None}


WHOLE = tuple(LABELS)
"""The kinds with a label for each image; those with labels of pixels are in test_dense.py."""


def task(kind: str, **options: Any) -> Task:
    return KINDS[kind]("head", TaskConfig(kind=kind, classes=CLASSES[kind], **options))


def targets(of: Task) -> torch.Tensor:
    return torch.tensor([of.encode(cell) for cell in LABELS[of.config.kind]])


@pytest.mark.parametrize("kind", WHOLE)
def test_missing_labels_cost_nothing_and_are_not_measured(kind: str) -> None:
    of = task(kind)
    truth = targets(of)
    outputs = torch.randn(4, of.outputs, requires_grad=True)
    assert of.valid(truth).tolist() == [True, False, True, True]
    losses = of.losses(outputs, truth)
    losses.sum().backward()
    assert losses[1] == 0
    assert outputs.grad is not None
    assert outputs.grad[1].abs().sum() == 0
    assert outputs.grad[0].abs().sum() > 0
    assert of.say_target(truth[1]) == "-"


@pytest.mark.parametrize("kind", WHOLE)
def test_a_process_may_have_no_rows_of_a_batch(kind: str) -> None:
    """As where none of its files can be read."""
    of = task(kind)
    assert of.valid(targets(of)[:0]).shape == (0,)


def test_losses_are_the_usual_ones() -> None:
    outputs, labels = torch.randn(4, 3), torch.tensor([1, -100, 0, 2])
    smoothed = task("classification", label_smoothing=0.1)
    expected = cross_entropy(outputs, labels, label_smoothing=0.1)
    torch.testing.assert_close(smoothed.training_losses(outputs, labels).sum() / 3, expected)
    torch.testing.assert_close(smoothed.losses(outputs, labels).sum() / 3, cross_entropy(outputs, labels))
    several = task("multilabel")
    truth = targets(several)
    expected = binary_cross_entropy_with_logits(outputs[[0, 2, 3]], truth[[0, 2, 3]])
    torch.testing.assert_close(several.losses(outputs, truth).sum() / 3, expected)
    number = task("regression")
    assert number.losses(torch.zeros(4, 1), targets(number)).tolist() == [2.25, 0, 4, 0]


@pytest.mark.parametrize(
    ("kind", "outputs", "expected"),
    [
        ("classification", [[0, 9, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]], {"accuracy": 2 / 3}),
        ("multilabel", [[9, -9, 9], [9, 9, 9], [-9, -9, -9], [-9, 9, -9]], {"mAP": 1, "f1": 1}),
        ("regression", [[1.5], [7], [0], [0]], {"mae": 2 / 3, "r2": 1 - 4 / 6.1667}),
    ],
)
def test_metrics(kind: str, outputs: list[list[float]], expected: dict[str, float]) -> None:
    of = task(kind)
    metrics = of.metrics()
    truth = targets(of)
    valid = of.valid(truth)
    for metric in metrics.values():
        metric.update(*of.comparable(torch.tensor(outputs).float()[valid], truth[valid]))
    found = {name: metric.compute() for name, metric in metrics.items()}
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("kind", WHOLE)
def test_views_are_averaged_as_probabilities(kind: str) -> None:
    of = task(kind)
    outputs = 5 * torch.randn(4, 3, of.outputs, dtype=torch.float64)
    average = of.average(outputs)
    if kind == "classification":
        torch.testing.assert_close(average.softmax(1), outputs.softmax(2).mean(1))
        labels = torch.tensor([0, 2, 1, 0])
        expected = -outputs.softmax(2).mean(1)[range(4), labels].log()
        torch.testing.assert_close(of.losses(average, labels), expected)
    elif kind == "multilabel":
        torch.testing.assert_close(average.sigmoid(), outputs.sigmoid().mean(1))
        assert of.average(torch.tensor([[[200.0], [100.0]]])).item() == pytest.approx(100 + math.log(2))
    else:
        torch.testing.assert_close(average, outputs.mean(1))


def test_one_label_needs_no_list() -> None:
    assert find_classes(KINDS["multilabel"], [3, [1, 2], None, "4;3"]) == ("1", "2", "3", "4")
    of = KINDS["multilabel"]("head", TaskConfig(kind="multilabel", classes=("1", "2", "3")))
    assert of.encode(3) == [0, 0, 1]


def test_classes_are_sorted_as_numbers_where_all_are() -> None:
    assert find_classes(KINDS["classification"], ["10", "9", 2.0, None]) == ("2", "9", "10")
    assert find_classes(KINDS["classification"], ["10", "9", "x"]) == ("10", "9", "x")
    assert find_classes(KINDS["classification"], ["10", "-9", 2**64]) == ("-9", "10", str(2**64))
    for strange in ("²", "②", "--5", "9" * 5000):  # str.isdigit or int would take some of them
        assert find_classes(KINDS["classification"], ["10", strange]) == tuple(sorted(["10", strange]))
    assert find_classes(KINDS["multilabel"], ["b; a", ["c"], None]) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("kind", "cell", "message"),
    [
        ("classification", "bb", "unknown class 'bb'; did you mean 'b'"),
        ("multilabel", "a;d", "unknown class 'd'"),
        ("regression", "tall", "'tall' is not a finite number"),
        ("regression", "nan", "'nan' is not a finite number"),
        ("regression", 10**400, "0 is not a finite number"),
    ],
)
def test_labels_that_cannot_be(kind: str, cell: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task(kind).encode(cell)


def test_losses_that_ask_for_each_class_by_itself() -> None:
    of = task("classification", loss="bce")
    outputs = torch.zeros(2, 3, requires_grad=True)
    losses = of.training_losses(outputs, torch.tensor([1, -100]))
    torch.testing.assert_close(losses, torch.tensor([3 * math.log(2), 0.0]))
    losses.sum().backward()
    assert outputs.grad is not None
    torch.testing.assert_close(outputs.grad, torch.tensor([[0.5, -0.5, 0.5], [0.0, 0.0, 0.0]]))
    assert of.losses(outputs, torch.tensor([1, -100]))[0].item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_losses(gamma: float) -> None:
    one = KINDS["classification"]("x", TaskConfig(classes=("a", "b"), loss="focal", gamma=gamma))
    outputs, targets = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, -100])
    likely = float(torch.tensor(2.0).sigmoid())
    wanted = -((1 - likely) ** gamma) * math.log(likely)
    assert one.training_losses(outputs, targets).tolist() == pytest.approx([wanted, 0.0])
    several = KINDS["multilabel"]("x", TaskConfig(kind="multilabel", classes=("a",), loss="focal", gamma=gamma))
    truth = torch.tensor([[1.0], [0.0], [math.nan]])
    found = several.training_losses(torch.tensor([[2.0], [-2.0], [0.0]]), truth)
    assert found.tolist() == pytest.approx([wanted, wanted, 0.0])


def test_gamma_is_for_the_focal_loss() -> None:
    with pytest.raises(ConfigError, match="gamma = 1 is for loss: focal"):
        TaskConfig.parse({"gamma": 1.0}, "tasks.x")
