"""The Pareto front, the order of rows, and what is chosen where nothing is said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classy_vision.config import UnknownNameError
from classy_vision.study import Axes, Row, choose_axes, front
from classy_vision.study.row import COLUMNS, list_values, sort_rows, value

NUMBERS = st.one_of(st.none(), st.integers(1, 6).map(float))


def row(name: str, accuracy: float | None = None, **numbers: Any) -> Row:
    return Row(name, accuracies={} if accuracy is None else {"digit": accuracy}, **numbers)


ROWS = st.lists(
    st.builds(row, st.uuids().map(str), NUMBERS, latency=NUMBERS, macs=NUMBERS, throughput=NUMBERS), max_size=12
)
AXES = st.builds(
    Axes, st.sampled_from(["latency", "throughput", "macs"]), st.sampled_from(["accuracy", "macs"])
)


@given(ROWS, AXES)
def test_the_front_is_what_nothing_beats(rows: list[Row], axes: Axes) -> None:
    def beats(one: Row, other: Row) -> bool:
        pairs = [
            (value(one, n), value(other, n), high) for n, high in ((axes.x, axes.x_high), (axes.y, axes.y_high))
        ]
        gains = [(a - b) * (1 if high else -1) for a, b, high in pairs if a is not None and b is not None]
        return min(gains) >= 0 and max(gains) > 0

    known = [one for one in rows if axes.point(one)]
    wanted = {one.name for one in known if not any(beats(other, one) for other in known)}
    assert {one.name for one in front(rows, axes)} == wanted


def test_rows_that_failed_are_not_on_the_front() -> None:
    rows = [row("a", 0.9, latency=1.0, failure="broken"), row("b", 0.8, latency=2.0)]
    assert [one.name for one in front(rows, Axes("latency", "accuracy"))] == ["b"]


@pytest.mark.parametrize(
    ("numbers", "axes", "said"),
    [
        ({"accuracy": 0.5, "latency": 1.0}, ("latency", "accuracy"), "most accuracy for the least latency"),
        ({"accuracy": 0.5, "macs": 1}, ("macs", "accuracy"), "most accuracy for the least MACs"),
        ({"macs": 1, "latency": 1.0}, ("latency", "macs"), "most MACs for the least latency"),
        ({"macs": 1}, ("activations", "macs"), "most MACs for the least activations"),
    ],
)
def test_axes_that_there_are_numbers_for(numbers: Any, axes: tuple[str, str], said: str) -> None:
    chosen = choose_axes([row("a"), row("b", **numbers)])
    assert (chosen.x, chosen.y) == axes
    assert str(chosen) == said


def test_axes_that_are_given() -> None:
    axes = choose_axes([], "throughput", "params")
    assert (axes.x_high, axes.y_high) == (True, True)
    assert str(axes) == "most parameters for the most inputs per second"
    with pytest.raises(UnknownNameError, match="--x: unknown column 'latencies'; did you mean 'latency'"):
        choose_axes([], "latencies")


def test_the_best_come_first_and_those_without_a_number_last() -> None:
    rows = [row("a", 0.5, latency=2.0), row("b"), row("c", 0.9, latency=3.0)]
    assert [one.name for one in sort_rows(rows, "accuracy")] == ["c", "a", "b"]
    assert [one.name for one in sort_rows(rows, "-accuracy")] == ["a", "c", "b"]
    assert [one.name for one in sort_rows(rows, "latency")] == ["a", "c", "b"]


def test_every_row_has_the_same_keys() -> None:
    rows = [row("a"), Row("b", accuracies={"digit": 0.5, "loop": 0.6})]
    first, second = list_values(rows, rows[1:])
    assert list(first) == list(second)
    assert set(COLUMNS) <= set(first)
    assert (second["accuracy"], second["accuracy/loop"], second["front"]) == (0.5, 0.6, True)
    assert (first["accuracy"], first["front"]) == (None, False)
