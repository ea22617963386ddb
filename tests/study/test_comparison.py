"""Comparing in Python: what is counted, measured and trained, and what fails beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from classy_vision.config import ConfigError
from classy_vision.cost import count, free_memory
from classy_vision.models import build_model
from classy_vision.study import Candidate, Comparison, Recipe
from classy_vision.study.row import Row
from classy_vision.study.show import make_grid
from classy_vision.train import TrainConfig
from tests.train.command import SMALL_TRUNK, digits_job, head, write

HEADS = [head("late", num_classes=3), head("early", "block1")]


def silent(text: str) -> None:
    pass


def compared(*configs: dict[str, Any], **options: Any) -> Comparison:
    candidates = [Candidate(f"net{i}", "nets", config) for i, config in enumerate(configs)]
    comparison = Comparison(candidates, **options)
    comparison.count(silent)
    return comparison


def recipe(**sections: Any) -> Recipe:
    job = digits_job(**{"schedule": {"epochs": 1}, **sections})
    return Recipe(TrainConfig.parse(job))


def test_the_numbers_are_those_of_the_model() -> None:
    comparison = compared({**SMALL_TRUNK, "heads": HEADS}, batch=4, input_size=(16, 24))
    (row,) = comparison.rows
    heads = [HEADS[0], {**HEADS[1], "num_classes": 1000}]
    costs = count(build_model({**SMALL_TRUNK, "heads": heads}).eval(), (3, 16, 24))
    assert row.input_shape == (3, 16, 24)
    assert (row.params, row.macs, row.activations) == (costs.params, costs.macs, costs.activations)
    assert row.memory == costs.memory(4).peak
    assert (row.latency, row.failure) == (None, None)


def test_what_does_not_run_is_not_counted() -> None:
    (row,) = compared({**SMALL_TRUNK, "heads": HEADS[1:]}).rows
    costs = count(build_model({**SMALL_TRUNK, "heads": [{**HEADS[1], "num_classes": 1000}]}).eval())
    assert row.params == costs.params
    assert row.macs == costs.running.macs < costs.macs


def test_what_fails_leaves_the_others() -> None:
    small = {**SMALL_TRUNK, "num_classes": 3}
    comparison = compared({"name": "vit_b_16"}, small, {"name": "anynet"}, input_size=(20, 20))
    comparison.measure(silent, rounds=2, warmup=1)
    vit, good, unknown = comparison.rows
    assert "multiples of the patch size 16" in (vit.failure or "")
    assert "key 'depths' is required" in (unknown.failure or "")
    assert good.failure is None
    assert good.latency is not None
    assert good.latency > 0
    assert good.throughput == pytest.approx(1000 / good.latency)
    assert good.memory is not None
    assert good.memory > 4 * (good.params or 0)


def test_a_model_that_does_not_fit_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*args: object, **options: object) -> None:
        raise AssertionError("it was built")

    comparison = compared({"name": "resnet18"})
    monkeypatch.setattr(free_memory, "find_free", lambda device: 10_000)
    monkeypatch.setattr("classy_vision.study.comparison.build_model", build)
    comparison.measure(silent)
    assert "needs about" in (comparison.rows[0].failure or "")
    assert comparison.rows[0].macs


def test_a_device_that_is_none_is_an_error_before_all_work() -> None:
    with pytest.raises(ConfigError, match="cuda:99"):
        compared({"name": "resnet18"}).measure(silent, "cuda:99")


# -- training


def test_models_take_the_recipes_heads_and_images(tmp_path: Path) -> None:
    own = {"heads": [head("other", num_classes=7)], "in_channels": 3}
    comparison = compared({**SMALL_TRUNK, **own}, {"name": "vit_b_16"}, recipe=recipe())
    comparison.train(tmp_path, silent)
    good, vit = comparison.rows
    assert good.input_shape == (1, 8, 8)
    assert list(good.accuracies) == ["digit", "loop"]
    assert good.accuracy == good.accuracies["digit"]
    assert 0 <= good.accuracies["digit"] <= 1
    assert "block1" in (vit.failure or "")
    assert [path.name for path in (tmp_path / "nets").iterdir()] == ["net0"]


def test_a_finished_run_is_read_and_never_that_of_another_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compared(SMALL_TRUNK, recipe=recipe())
    first.train(tmp_path, silent)
    changed = compared(SMALL_TRUNK, recipe=recipe(schedule={"epochs": 1, "seed": 5}))
    other = compared({**SMALL_TRUNK, "stem_width": 6}, recipe=recipe())
    monkeypatch.setattr("classy_vision.train.train", None)
    monkeypatch.setattr("classy_vision.train.resume", None)
    again = compared(SMALL_TRUNK, recipe=recipe())
    again.train(tmp_path, silent)
    assert again.rows == first.rows
    for comparison, part in ((changed, "schedule"), (other, "model")):
        comparison.train(tmp_path, silent)
        failure = comparison.rows[0].failure or ""
        assert f"holds a run of another recipe or model (its {part})" in failure


def test_a_recipe_without_heads(tmp_path: Path) -> None:
    job = {**digits_job(), "model": "resnet18"}
    with pytest.raises(ConfigError, match="model"):
        Recipe.read(write(tmp_path / "job.json", job))
    job = {**digits_job(), "model": {"name": "resnet18"}}
    with pytest.raises(ConfigError, match="needs heads under model"):
        Recipe.read(write(tmp_path / "job.json", job))


def test_training_needs_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a recipe"):
        compared(SMALL_TRUNK).train(tmp_path)


def test_training_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compared(SMALL_TRUNK, recipe=recipe())
    monkeypatch.setattr(free_memory, "find_free", lambda device: 10_000)
    comparison.train(tmp_path, silent)
    assert "needs about" in (comparison.rows[0].failure or "")
    assert list(tmp_path.iterdir()) == []


def test_each_accuracy_is_shown_once() -> None:
    published = Row("a", "", (3, 8, 8), accuracies={"imagenet_1k": 0.8})
    trained = Row("b", "", (3, 8, 8), accuracies={"digit": 0.9, "loop": 0.7})
    shown = make_grid([published, trained], []).headings
    assert list(shown) == ["mark", "model", "input", "accuracy", "accuracy/loop"]
