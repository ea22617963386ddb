"""What is measured, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, mean_absolute_error, r2_score
from torch import Tensor

from classy_vision.train import metrics
from classy_vision.train.metrics import F1, R2, Accuracy, MeanAbsoluteError, MeanAveragePrecision, Metric


def in_parts(metric: Metric, outputs: Tensor, targets: Tensor) -> Metric:
    for part in torch.split(torch.arange(len(outputs)), 7):
        metric.update(outputs[part], targets[part])
    return metric


def labels(n: int = 50, k: int = 6, rate: float = 0.2) -> Tensor:
    targets = (torch.rand(n, k) < rate).float()
    targets[0], targets[1] = 1, 0  # each is there, and none is everywhere
    return targets


@pytest.mark.parametrize("round_to", [None, 1])
def test_map_is_that_of_scikit_learn_with_ties_and_without(round_to: int | None) -> None:
    targets = labels()
    logits = torch.randn_like(targets) + targets
    logits = logits if round_to is None else logits.round()
    expected = average_precision_score(targets.numpy(), logits.numpy())
    assert in_parts(MeanAveragePrecision(6), logits, targets).compute() == pytest.approx(expected)


@pytest.mark.parametrize("shift", [-30.0, -6.0, 0.0, 30.0])
def test_map_is_of_the_ranking_however_rare_labels_are(shift: float) -> None:
    targets = labels(400, 3, rate=0.02)
    logits = torch.randn_like(targets) + 2 * targets
    exact = average_precision_score(targets.numpy(), logits.numpy())
    assert in_parts(MeanAveragePrecision(3), logits + shift, targets).compute() == pytest.approx(
        exact, abs=1e-3
    )


def test_map_leaves_labels_out_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CHUNK", 100)  # two labels at a time
    targets, logits = labels(), torch.randn(50, 6)
    whole = in_parts(MeanAveragePrecision(5), logits[:, :5], targets[:, :5]).compute()
    targets[:, 5] = 0
    assert in_parts(MeanAveragePrecision(6), logits, targets).compute() == pytest.approx(whole)
    assert in_parts(MeanAveragePrecision(6), logits, 0 * targets).compute() == 0


def test_f1_is_that_of_scikit_learn() -> None:
    targets, logits = labels(), torch.randn(50, 6)
    targets[:, 5], logits[:, 5] = 0, -1
    expected = f1_score(targets.numpy(), logits.numpy() > 0, average="macro", zero_division=0)
    assert in_parts(F1(6), logits, targets).compute() == pytest.approx(expected)


def test_accuracy() -> None:
    outputs = torch.tensor([[0.0, 9, 0], [9, 0, 0], [0, 9, 0]])
    assert in_parts(Accuracy(), outputs, torch.tensor([1, 0, 2])).compute() == pytest.approx(2 / 3)


@pytest.mark.parametrize("mean", [0.0, 1e5])
def test_errors_of_numbers_are_those_of_scikit_learn(mean: float) -> None:
    targets = mean + torch.randn(50)
    outputs = targets + 0.3 * torch.randn(50)
    true, said = targets.double().numpy(), outputs.double().numpy()
    assert in_parts(R2(), outputs, targets).compute() == pytest.approx(r2_score(true, said), rel=1e-5)
    found = in_parts(MeanAbsoluteError(), outputs, targets).compute()
    assert found == pytest.approx(mean_absolute_error(true, said), rel=1e-5)


@pytest.mark.parametrize(("said", "expected"), [(3.0, 1.0), (4.0, 0.0)])
def test_r2_of_a_single_value(said: float, expected: float) -> None:
    assert in_parts(R2(), torch.full((4,), said), torch.full((4,), 3.0)).compute() == expected


@pytest.mark.parametrize(
    "metric",
    [Accuracy(), F1(3), MeanAbsoluteError(), R2(), MeanAveragePrecision(3)],
    ids=lambda m: type(m).__name__,
)
def test_without_a_sample_there_is_a_number(metric: Metric) -> None:
    assert np.isfinite(metric.compute())
