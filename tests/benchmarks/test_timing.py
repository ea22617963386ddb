"""Contenders take turns."""

from __future__ import annotations

import time

import pytest

from benchmarks.timing import clocked, medians, own_process, ratio, take_turns


def test_turns_are_taken_and_the_first_rounds_do_not_count() -> None:
    order: list[str] = []

    def call(name: str) -> int:
        order.append(name)
        return len(order)

    found = take_turns({"a": lambda: call("a"), "b": lambda: call("b")}, rounds=2, warmup=1)
    assert order == ["a", "b", "b", "a", "a", "b"]  # nobody is always the first
    assert found == {"a": [4, 5], "b": [3, 6]}


def test_medians() -> None:
    values = iter([100.0, 1.0, 7.0, 2.0])
    assert medians({"a": lambda: next(values)}, rounds=3) == {"a": 2.0}


def test_ratios_are_of_the_same_round() -> None:
    # Both are twice as slow in the second round, so that nothing of it is left in the ratio.
    assert f"{ratio([3.0, 6.0, 3.3], [2.0, 4.0, 2.0]):.2f}" == "1.50 (1.50 to 1.57)"
    assert f"{ratio([3.0], [2.0]):.1f}" == "1.5 (1.5 to 1.5)"
    with pytest.raises(ValueError, match="longer"):
        ratio([1.0], [1.0, 2.0])


def test_milliseconds() -> None:
    assert 20 <= clocked(lambda: time.sleep(0.02))() < 2000


def test_a_process_that_fails_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"-m benchmarks\.nothing --one failed with status 1"):
        own_process("nothing", "--one")
    assert "No module named benchmarks.nothing" in capfd.readouterr().err
