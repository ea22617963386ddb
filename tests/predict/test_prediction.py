"""Answers are those that torch's softmax and sigmoid give, without torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from classy_vision.predict.prediction import make_answer

CLASSES = ("a", "b", "c")
LOGITS = np.array([0.0, 2.0, 1.0], np.float32)


def test_scores_are_probabilities_best_first() -> None:
    answer = make_answer("classification", CLASSES, LOGITS, top=2)
    assert [label for label, _ in answer.scores] == ["b", "c"]
    assert answer.labels == ("b",)
    assert answer.probability == pytest.approx(torch.from_numpy(LOGITS).softmax(0)[1].item(), abs=1e-6)


def test_labels_are_those_of_a_half_whatever_is_shown() -> None:
    answer = make_answer("multilabel", CLASSES, LOGITS - 1, top=1)
    assert [label for label, _ in answer.scores] == ["b"]
    assert answer.labels == ("b", "c")
    assert answer.probability == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=1e-6)


def test_numbers_are_as_they_are() -> None:
    answer = make_answer("regression", (), np.array([1.25], np.float32), top=5)
    assert (answer.value, answer.scores, answer.label) == (1.25, (), None)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_large_logits_do_not_overflow(kind: str) -> None:
    with np.errstate(all="raise", under="ignore"):
        answer = make_answer(kind, CLASSES, np.array([-1e4, 1e4, 0], np.float32), 3)  # type: ignore[arg-type]
    assert answer.scores[0] == ("b", 1.0)
