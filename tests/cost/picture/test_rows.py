"""What a picture says: numbers, stages, and what does not run."""

from __future__ import annotations

import pytest
import yaml

from classy_vision.cost import Costs, StepCost
from classy_vision.cost.picture.rows import Row, describe
from tests.cost.picture.models import SCRIPT, costs_of


def step(name: str, shape: tuple[int, ...] = (8, 4, 4), macs: int = 1, **more: object) -> StepCost:
    stride = None if len(shape) < 3 else 32 // shape[-1]
    return StepCost(name, more.pop("reads", None), (), shape, stride, 10, macs, **more)  # type: ignore[arg-type]


def rows_of(*steps: StepCost) -> dict[str, Row]:
    return {row.name: row for row in describe(Costs((3, 32, 32), steps), "a title").rows}


def test_bars_are_shares_of_the_largest() -> None:
    costs = ((8, 16, 16), 30), ((16, 8, 8), 60), ((32, 4, 4), 9), ((32,), 1)
    rows = rows_of(*(step(f"step{i}", *cost) for i, cost in enumerate(costs)))
    assert [row.width for row in rows.values()] == [1 / 4, 1 / 2, 1, 1]
    assert [row.extent for row in rows.values()] == [1, 1 / 2, 1 / 4, 0]
    assert [row.amounts["macs"].heat for row in rows.values()] == [1 / 2, 1, 9 / 60, 1 / 60]
    assert [row.amounts["macs"].share for row in rows.values()] == ["30.0%", "60.0%", "9.0%", "1.0%"]


def test_tokens_and_frames_are_compared_by_the_side_of_a_square() -> None:
    rows = rows_of(step("video", (8, 5, 16, 4)), step("tokens", (16, 8)), step("vector", (8,)))
    assert [row.extent for row in rows.values()] == [1, 1 / 2, 0]


@pytest.mark.parametrize(
    ("key", "stages"),
    [
        ("three heads", ["stem", "block0", "block1", "block2", "block3", "trunk_output"]),
        ("stops early", ["stem", "block0", "block1", "block2", "block3", "trunk_output"]),
        ("tokens", ["stem", "layer", "ln", "trunk_output"]),
        ("video", ["stem", *(f"pathway0-stage{i}" for i in (1, 2, 3, 4)), "trunk_output"]),
        ("vectors", ["stem", "layer", "trunk_output"]),
    ],
)
def test_stages_are_steps_that_belong_together(key: str, stages: list[str]) -> None:
    assert [stage.name for stage in describe(costs_of(key), "").stages] == stages


def test_a_stage_that_changes_its_stride_is_two() -> None:
    stages = describe(Costs((3, 32, 32), (step("layer1", (8, 8, 8)), step("layer2", (8, 4, 4)))), "").stages
    assert [(stage.name, stage.steps) for stage in stages] == [("layer", 1), ("layer", 1)]


def test_sums_of_stages_hold_their_heads_and_add_up() -> None:
    costs = costs_of("three heads")
    stages = describe(costs, "").stages
    assert {row.name for row in stages[2].rows} == {"early", *(f"block1-{i}" for i in range(4))}
    assert stages[2].steps == 4
    exact = [int(stage.amounts["macs"].exact.replace(",", "")) for stage in stages]
    assert sum(exact) == costs.macs


def test_steps_behind_the_deepest_head_do_not_run() -> None:
    costs = costs_of("stops early")
    what = describe(costs, "")
    assert [row.name for row in what.rows if not row.runs] == [step.name for step in costs.skipped]
    assert "stops here" in what.stop
    assert describe(costs_of("three heads"), "").stop == describe(costs_of("vectors"), "").stop == ""


def test_latency_stands_only_where_it_was_measured() -> None:
    costs = Costs((3, 32, 32), (step("a"), step("b")))
    assert [metric.key for metric in describe(costs, "").metrics] == ["macs", "params", "activations"]
    what = describe(costs, "", {"a": 0.5})
    assert [metric.key for metric in what.metrics][-1] == "latency"
    assert [row.amounts["latency"].text for row in what.rows] == ["0.500 ms", ""]


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 ms"), (0.01234, "0.012 ms"), (1.5, "1.50 ms"), (1234, "1234 ms")]
)
def test_milliseconds(number: float, text: str) -> None:
    row = describe(Costs((3, 32, 32), (step("a"),)), "", {"a": number}).rows[0]
    assert row.amounts["latency"].text == text


def test_a_model_without_arithmetic_has_a_picture() -> None:
    row = rows_of(step("a", (), 0))["a"]
    assert (row.amounts["macs"].text, row.amounts["macs"].share, row.amounts["macs"].heat) == ("0", "", 0)
    assert (row.width, row.extent) == (0, 0)


def test_what_was_not_counted_is_named() -> None:
    costs = Costs((3, 32, 32), (step("a"),), unread=1200, uncounted=("aten.fft",))
    summary = describe(costs, "").summary
    assert "1.20K parameters that no step reads" in summary
    assert "not counted: aten.fft" in summary


@pytest.mark.parametrize("name", ["block2-1", "layers.3.attn", "off", "1", "a: b", "# x", "x" * 200, "日本"])
def test_the_line_for_a_config_reads_back(name: str) -> None:
    fork = rows_of(step(name), step("h", (9,), reads=name))[name].fork
    assert yaml.safe_load(fork) == {"fork_block": name}
    assert "\n" not in fork


def test_a_head_tells_where_it_reads() -> None:
    row = next(row for row in describe(costs_of("stops early"), "").rows if row.name == SCRIPT)
    assert row.fork == "fork_block: block1-1"
    assert ("reads", "block1-1") in row.facts


def test_a_head_may_have_the_name_of_a_block() -> None:
    rows = describe(Costs((3, 32, 32), (step("a", macs=4), step("a", (9,), 6, reads="a"))), "").rows
    assert [(row.reads, row.amounts["macs"].text) for row in rows] == [(None, "4"), ("a", "6")]


def test_names_are_one_line_of_signs() -> None:
    what = describe(Costs((3, 32, 32), (step("a\nb\x00c"),)), "two\nlines\t\x1b[1m")
    assert what.title == "two lines \N{REPLACEMENT CHARACTER}[1m"
    assert what.rows[0].name == "a b\N{REPLACEMENT CHARACTER}c"
