"""Classifiers on features, beside plain computations and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from classy_vision.embed.classify import classify_by_neighbours, classify_linearly, fit_linear, standardize


def make_clouds(rows: int, classes: int, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points around a centre for each class, which overlap."""
    draw = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, channels, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(rows) % classes
    return centres[labels] + 2 * torch.randn(rows, channels, generator=draw), labels


def vote(train: Tensor, labels: Tensor, row: Tensor, classes: int, count: int) -> int:
    """The class of one row, in plain Python."""
    found = []
    for other, label in zip(train.tolist(), labels.tolist()):
        product = sum(a * b for a, b in zip(row.tolist(), other))
        found.append((product / math.hypot(*row.tolist()) / math.hypot(*other), label))
    votes = [0.0] * classes
    for cosine, label in sorted(found, reverse=True)[:count]:
        votes[label] += math.exp(cosine / 0.07)
    return votes.index(max(votes))


@pytest.mark.parametrize("count", [1, 20, 500])
def test_neighbours_are_those_of_a_plain_computation(count: int) -> None:
    train, labels = make_clouds(120, 5, 6, 0)
    test, _ = make_clouds(50, 5, 6, 1)
    found = classify_by_neighbours(train.double(), labels, test.double(), 5, count)
    assert found.tolist() == [vote(train, labels, row, 5, count) for row in test]


@pytest.mark.parametrize(("classes", "channels"), [(2, 4), (7, 30)])
def test_linear_classifiers_are_scikit_learns(classes: int, channels: int) -> None:
    train, labels = make_clouds(300, classes, channels, 0)
    test, wanted = make_clouds(2000, classes, channels, 1)
    scale = torch.logspace(-2, 2, channels)
    train, test, _, _ = standardize(train * scale, test * scale)
    decays = (1e-4, 1e-2, 1.0, 10.0)
    weight, bias = fit_linear(train, labels, classes, decays)
    accuracies = (classify_linearly(test, weight, bias) == wanted).double().mean(1)
    for decay, ours in zip(decays, accuracies.tolist()):
        theirs = LogisticRegression(C=1 / (len(train) * decay), max_iter=5000, tol=1e-9).fit(
            train.numpy(), labels.numpy()
        )
        assert ours == pytest.approx(theirs.score(test.numpy(), wanted.numpy()), abs=0.005)


def test_columns_are_standardized() -> None:
    train = torch.tensor([[1.0, 5.0, 3.0], [3.0, 5.0, -1.0]])
    one, two, mean, scale = standardize(train, torch.tensor([[5.0, 6.0, 1.0]]))
    assert one.tolist() == [[-1, 0, 1], [1, 0, -1]]
    assert two.tolist() == [[3, 0, 0]]
    assert torch.equal((train - mean) * scale, one)
