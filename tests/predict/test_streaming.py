"""Batches that are in work at the same time are answered in their order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from classy_vision.data.images import ImageError
from classy_vision.predict.streaming import answer_batches, one_by_one

Array = Any


def entries() -> Iterator[list[tuple[Any, Any]]]:
    """Batches of inputs of several shapes, of which some cannot be read; each input is its number."""
    number = 0
    for shapes in ((2, 3, 2), (None, None), (4,), (None,), (3, None, 2), (None,)):
        batch: list[tuple[Any, Any]] = []
        for shape in shapes:
            bad = ImageError(Path(str(number)), "unreadable")
            batch.append((number, bad if shape is None else np.full((1, shape), float(number))))
            number += 1
        yield batch


def double(views: Array) -> Mapping[str, Array]:
    return {"head": 2 * views[:, 0, :1]}


@pytest.mark.parametrize("ahead", [1, 2, 100])
def test_answers_come_in_order(ahead: int) -> None:
    def run_all(batches: Iterator[Array]) -> Iterator[Mapping[str, Array]]:
        while taken := list(islice(batches, ahead)):
            yield from map(double, taken)

    for run in (run_all, one_by_one(double)):
        outputs = list(answer_batches(entries(), run))
        assert [one.input for one in outputs] == list(range(11))  # type: ignore[comparison-overlap]
        for number, one in enumerate(outputs):
            assert (one.error == "unreadable") == (number in (3, 4, 6, 8, 10))
            assert one.error or one.outputs["head"].tolist() == [2.0 * number]


@pytest.mark.parametrize("ahead", [1, 2])
def test_errors_do_not_wait_for_an_image_that_can_be_read(ahead: int) -> None:
    taken = 0

    def batches() -> Iterator[list[tuple[Any, Any]]]:
        nonlocal taken
        for number in range(100):
            taken += 1
            bad = ImageError(Path(str(number)), "unreadable")
            yield [(number, np.full((1, 2), 0.0) if number in (5, 6) else bad)]

    def run_all(arrays: Iterator[Array]) -> Iterator[Mapping[str, Array]]:
        while some := list(islice(arrays, ahead)):
            yield from map(double, some)

    for given, one in enumerate(answer_batches(batches(), run_all), 1):
        assert one.input == given - 1  # type: ignore[comparison-overlap]  # inputs are numbers here
        assert given <= taken <= given + ahead
    assert given == 100
