"""The best epoch, and when no better one is looked for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from classy_vision.config import ConfigError
from classy_vision.train import TrainConfig, resume, train
from classy_vision.train.best import LOWER_IS_BETTER, check_best, find_best, is_over
from classy_vision.train.config import ScheduleConfig, TaskConfig
from classy_vision.train.run import Trainer
from classy_vision.train.tasks import KINDS
from tests.train.command import head, job


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
