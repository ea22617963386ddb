"""The best epoch, and when no better one is looked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.train import TrainConfig, resume, train
from classy_vision.train.best import (
    LOWER_IS_BETTER,
    check_best,
    describe_stopped,
    find_best,
    find_stopped,
    have_all_stopped,
    is_over,
)
from classy_vision.train.config import ScheduleConfig, TaskConfig
from classy_vision.train.run import Trainer
from classy_vision.train.run_folder import RunFolder
from classy_vision.train.tasks import KINDS
from tests.train.command import head, job
from tests.train.stops import assert_same_runs, read_history, train_and_stop
from tests.train.test_chance import assert_two_are_one


def schedule(best: str | None, **options: Any) -> ScheduleConfig:
    return ScheduleConfig(best=best, **options)


def history(name: str, *values: float) -> list[dict[str, float]]:
    return [{name: value} for value in values]


def test_the_best_epoch() -> None:
    assert find_best(schedule(None), history("x", 1, 3, 2)) == 2
    assert find_best(schedule("val/a/accuracy"), history("val/a/accuracy", 1, 3, 3)) == 1
    assert find_best(schedule("val/a/loss"), history("val/a/loss", 3, 1, 2)) == 1
    assert find_best(schedule("val/a/mIoU"), history("val/a/mIoU", math.nan, 0.1)) == 1
    assert find_best(schedule("val/a/loss"), []) == -1


def test_patience() -> None:
    wait = schedule("val/a/loss", patience=2)
    assert not is_over(wait, [])
    assert not is_over(wait, history("val/a/loss", 1, 2))
    assert is_over(wait, history("val/a/loss", 1, 2, 3))
    assert not is_over(wait, history("val/a/loss", 1, 2, 0))
    assert not is_over(schedule("val/a/loss"), history("val/a/loss", *range(99)))
    with pytest.raises(ValueError, match="patience needs best"):
        ScheduleConfig(patience=2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_metric_has_a_direction(kind: str) -> None:
    classes = ("a", "b") if KINDS[kind].has_classes else None
    task = KINDS[kind]("x", TaskConfig.parse({"kind": kind, "classes": classes}, "tasks.x"))
    lower = {"mae", "rmse", "abs_rel"}
    for name in task.metrics():
        assert (name in LOWER_IS_BETTER) == (name in lower)
        check_best(schedule(f"val/x/{name}"), {"x": task})
    with pytest.raises(ConfigError, match="unknown metric 'val/x/los'; did you mean 'val/x/loss'"):
        check_best(schedule("val/x/los"), {"x": task})


def settings(table: Path, **options: Any) -> TrainConfig:
    config = job({"source": "table", "file": str(table)}, head("colour"), schedule={"epochs": 6, **options})
    return TrainConfig.parse(config)


def test_the_run_gives_its_best_epoch_and_stops_early(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, measured = [], iter([3.0, 1.0, 2.0, 2.0, 0.5, 2.0])
    run_epoch = Trainer.run_epoch

    def fake(trainer: Trainer, *args: Any) -> Any:
        row = {**run_epoch(trainer, *args), "val/colour/loss": next(measured)}
        states.append({name: value.clone() for name, value in trainer.result.state_dict().items()})
        return row

    monkeypatch.setattr(Trainer, "run_epoch", fake)
    final = train(settings(table, best="val/colour/loss", patience=2), tmp_path / "run")
    assert len(states) == 4
    assert final["val/colour/loss"] == 1.0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["final"]["epoch"] == 2
    torch.testing.assert_close(load_file(tmp_path / "run" / "model.safetensors"), states[1], rtol=0, atol=0)
    with pytest.raises(ConfigError, match="no epoch was better for 2; to go on: .* schedule.patience=4"):
        resume(tmp_path / "run")
    final = resume(tmp_path / "run", ["schedule.patience=4"])
    assert final["val/colour/loss"] == 0.5
    torch.testing.assert_close(load_file(tmp_path / "run" / "model.safetensors"), states[4], rtol=0, atol=0)


# -- heads that stop by themselves


def test_when_heads_stop() -> None:
    tasks = {"a": TaskConfig(patience=2), "b": TaskConfig(patience=1), "c": TaskConfig()}
    rows = [
        {f"val/{name}/loss": loss for name, loss in zip(tasks, losses)}
        for losses in [(1.0, 2.0, 1.0), (2.0, 1.0, 1.0), (1.0, math.nan, 1.0), (0.5, 0.5, 1.0), (0.7, 0.1, 1.0)]
    ]
    found = [find_stopped(tasks, rows[:count]) for count in range(6)]
    assert found == [{}, {}, {}, *[{"a": 3, "b": 3}] * 3]
    frozen = ScheduleConfig(freeze={"heads": ("a",)}, unfreeze_at=({"epoch": 3},))
    assert find_stopped({"a": tasks["a"]}, [rows[1]] * 4, frozen) == {}
    assert find_stopped({"a": tasks["a"]}, [rows[1]] * 5, frozen) == {"a": 5}
    settings = TrainConfig.parse(MINIMAL)
    assert not have_all_stopped(settings.model_copy(update={"tasks": tasks}), rows)
    del tasks["c"]
    assert not have_all_stopped(settings.model_copy(update={"tasks": tasks}), rows[:2])
    assert have_all_stopped(settings.model_copy(update={"tasks": tasks}), rows)
    assert list(describe_stopped(settings.model_copy(update={"tasks": tasks}), rows[:3])) == [
        "head 'a' stopped after epoch 3: its validation loss was not lower for 2 epochs",
        "head 'b' stopped after epoch 3: its validation loss was not lower for 1 epochs",
    ]
    assert not list(describe_stopped(settings.model_copy(update={"tasks": tasks}), rows))


MINIMAL = {"model": {"name": "resnet18", "heads": []}, "data": {"source": "digits"}}
LOSSES = {"colour": [3.0, 1.0, 2.0, 2.0, 2.0], "light": [3.0, 2.0, 1.0, 0.5, 1.0]}


def two_heads(table: Path, patience: int | None = 1, **options: Any) -> TrainConfig:
    """Two heads, of which one stops after the third of five epochs, and reads the later block."""
    tasks = {"colour": {"patience": 1}, "light": {"kind": "regression", "patience": patience}}
    schedule = {"epochs": 5, **options}
    data = {"source": "table", "file": str(table)}
    return TrainConfig.parse(job(data, head("colour"), head("light", "block1"), tasks=tasks, schedule=schedule))


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights at the ends of epochs, whose losses are those of ``LOSSES``."""
    found: list[dict[str, Tensor]] = []
    evaluate = Trainer._evaluate

    def fake(trainer: Trainer) -> Any:
        row, epoch = evaluate(trainer), trainer.order.epoch
        found.append({name: value.clone() for name, value in trainer.result.state_dict().items()})
        return row and {**row, **{f"val/{name}/loss": losses[epoch] for name, losses in LOSSES.items()}}

    monkeypatch.setattr(Trainer, "_evaluate", fake)
    return found


def differ(one: dict[str, Tensor], two: dict[str, Tensor], part: str) -> set[bool]:
    return {not torch.equal(value, two[key]) for key, value in one.items() if key.startswith(part)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss_weighting": "uncertainty", "ema": 0.9},
        {"loss_weighting": "upgrad"},
        {"swa": {"epoch": 2}},
        {"optimizer": "muon"},
        {"optimizer": "lamb"},
        {"optimizer": "schedule_free_adamw"},
        {"optimizer": "schedule_free_sgd"},
    ],
)
def test_a_head_that_has_stopped_stays_as_it_is(
    options: dict[str, Any], table: Path, ends: list[dict[str, Tensor]], capsys: pytest.CaptureFixture[str]
) -> None:
    train(two_heads(table, **options), table.parent / "run")
    assert capsys.readouterr().out.count("head 'colour' stopped after epoch 3") == 1
    assert differ(ends[1], ends[2], "heads.trunk_output.colour.fc.weight") == {True}
    for epoch in (3, 4):
        assert differ(ends[2], ends[epoch], "heads.trunk_output.colour") == {False}
        assert differ(ends[epoch - 1], ends[epoch], "heads.block1.light.fc.weight") == {True}
        assert True in differ(ends[epoch - 1], ends[epoch], "blocks.block1")
        # What the head alone depends on learns no more; norms still see their batches.
        later = {key: value for key, value in ends[epoch].items() if "running" not in key and "num_" not in key}
        if not options:
            assert differ(later, ends[2], "blocks.block2") == {False}
    if options.get("loss_weighting") == "uncertainty":
        rows = read_history(table.parent / "run")
        assert [row["train/colour/loss_weight"] > 0 for row in rows] == [True] * 3 + [False] * 2


def test_the_losses_of_heads_that_have_stopped_are_left_out(
    table: Path, ends: list[dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, seen = Accelerator.backward, []

    def record(self: Any, loss: Tensor) -> None:
        seen.append(loss.detach())
        backward(self, loss)

    monkeypatch.setattr(Accelerator, "backward", record)
    train(two_heads(table, batch_size=18), table.parent / "run")
    for loss, row in zip(seen, read_history(table.parent / "run")):
        names = ["light", "colour"] if row["epoch"] <= 3 else ["light"]
        assert float(loss) == pytest.approx(sum(row[f"train/{name}/loss"] for name in names), rel=1e-5)


@pytest.mark.parametrize("batches", [26, 19])  # of 6 in each epoch
def test_a_run_with_a_stopped_head_is_resumed_to_the_bit(
    batches: int, table: Path, ends: list[dict[str, Tensor]]
) -> None:
    config = two_heads(table, ema=0.9)
    train(config, table.parent / "whole")
    train_and_stop(config, table.parent / "stopped", batches)
    resume(table.parent / "stopped")
    assert_same_runs(table.parent / "stopped", table.parent / "whole")


def test_a_run_ends_when_all_heads_have_stopped(table: Path, ends: list[dict[str, Tensor]]) -> None:
    config, run = two_heads(table, epochs=6), table.parent / "run"
    train(config, run)
    assert len(ends) == 5
    with pytest.raises(ConfigError, match="every head has stopped; to go on: .* tasks.colour.patience=2"):
        resume(run)
    with pytest.raises(ConfigError, match="can change only .* and the patience of tasks"):
        resume(run, ["tasks.colour.weight=2"])
    with pytest.raises(IndexError):  # of the losses: the run goes on with the head
        resume(run, ["tasks.light.patience=2"])


@pytest.mark.slow
def test_two_processes_stop_heads_as_one(table: Path) -> None:
    config = two_heads(
        table, None, optimizer="sgd", learning_rate=0.03, learning_rate_schedule="constant", epochs=8
    )
    assert_two_are_one(config, table.parent)
    assert find_stopped(config.tasks, read_history(table.parent / "two"))["colour"] < 8


def test_rare_classes_are_drawn_as_often_as_others(table: Path, tmp_path: Path) -> None:
    from classy_vision.train.job import prepare

    lines = table.read_text().splitlines()
    red = [line for line in lines if ",train,red" in line]
    table.write_text("\n".join(line for line in lines if line not in red[2:]) + "\n")
    prepared = prepare(settings(table, balance="colour"))
    weights = prepared.row_weights()
    assert weights is not None
    rows = torch.tensor(prepared.records.rows(held_out=False))
    codes = prepared.targets["colour"][rows]
    sums = [float(weights[codes == code].sum()) for code in codes[codes >= 0].unique()]
    assert sums == pytest.approx([1.0] * len(sums))
    assert len(set(weights.tolist())) > 1
    train(settings(table, balance="colour", epochs=1), tmp_path / "run")
    with pytest.raises(ConfigError, match="schedule.balance: unknown head 'color'; did you mean 'colour'"):
        prepare(settings(table, balance="color"))


def test_a_run_that_ends_while_it_is_written_trains_no_further(
    table: Path, ends: list[dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last checkpoint is there, and its weights are not."""
    config, run = two_heads(table, epochs=6), table.parent / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", lambda *_: pytest.fail("full"))
        with pytest.raises(pytest.fail.Exception, match="full"):
            train(config, run)
    assert len(ends) == 5
    resume(run)
    assert len(ends) == 5
    assert (run / "model.safetensors").is_file()
