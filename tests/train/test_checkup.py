"""A dry run: what it finds, and that it leaves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from classy_vision.cli import main
from classy_vision.config import ConfigError, OperationError
from classy_vision.cost.free_memory import find_free
from classy_vision.train import TrainConfig, check, checkup, train
from classy_vision.train.run import Stopwatch
from tests.train.command import clips_job, head, job, write

HEADS = head("colour"), head("tags", "block1"), head("light", "block1")
TASKS = {"colour": {}, "tags": {"kind": "multilabel"}, "light": {"kind": "regression"}}


def settings(table: Path, **sections: Any) -> TrainConfig:
    data = {"source": "table", "file": str(table), **sections.pop("data", {})}
    return TrainConfig.parse(job(data, *HEADS, tasks=TASKS, **sections))


def test_it_tells_what_training_would_meet(table: Path) -> None:
    before = sorted(table.parent.rglob("*"))
    found = check(settings(table, schedule={"ema": 0.9}, tensorboard=True), table.parent / "run")
    assert sorted(table.parent.rglob("*")) == before
    assert (found.files, found.unreadable) == (24, ())
    assert found.losses.keys() == TASKS.keys()
    assert found.seconds_per_epoch > 0
    said = "\n".join(found.lines)
    assert "head 'light': 5 of 6 held out have a label" in said
    assert "3×8×8 in training" in said


def test_its_first_losses_are_those_of_training(table: Path) -> None:
    row = train(settings(table, schedule={"epochs": 1, "batch_size": 18}), table.parent / "run")
    losses = check(settings(table, schedule={"epochs": 1, "batch_size": 18})).losses
    assert losses == {name: row[f"train/{name}/loss"] for name in TASKS}


def test_optimizer_and_average_count_as_memory(table: Path) -> None:
    plain = check(settings(table, schedule={"optimizer": "sgd", "momentum": 0.0}))
    more = check(settings(table, schedule={"optimizer": "adamw", "ema": 0.9}))
    learned = 4 * 3 * 1000  # bytes: two moments and an average of a model of more than 1000 parameters
    assert more.memory > plain.memory + learned


def test_every_unreadable_file_counts(table: Path) -> None:
    for name in ("3.png", "5.png"):
        (table.parent / name).write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"2 of 24 files cannot be read: .*3\.png.*5\.png"):
        check(settings(table))
    found = check(settings(table, data={"on_bad_image": "skip"}))
    assert len(found.unreadable) == 2
    assert any("2 unreadable: " in line for line in found.lines)


def test_videos_are_looked_at(videos: Path) -> None:
    found = check(TrainConfig.parse(clips_job(videos)))
    assert (found.files, found.unreadable) == (24, ())


def test_a_run_that_is_there_and_memory_that_is_not(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (table.parent / "run").mkdir()
    (table.parent / "run" / "config.yaml").touch()
    with pytest.raises(ConfigError, match="exists"):
        check(settings(table), table.parent / "run")
    check(settings(table), table.parent / "run", force=True)
    assert (find_free(torch.device("cpu")) or 2) > 1
    monkeypatch.setattr(checkup, "find_free", lambda device: 1)
    with pytest.raises(ConfigError, match=r"needs about .*B of memory, and 1B are free"):
        check(settings(table))


def test_a_loss_that_is_not_finite(table: Path) -> None:
    with pytest.raises(OperationError, match="not a finite number in epoch 1, step"):
        check(settings(table, schedule={"learning_rate": 1e30, "optimizer": "sgd"}))


def test_an_epoch_is_estimated_without_its_slow_start() -> None:
    watch = Stopwatch(10, [0.0, 5.0, 6.0, 8.0])
    assert watch.estimate() == 5.0 + 1.5 * 9
    assert Stopwatch(3, [0.0, 2.0]).estimate() == 6.0


def run_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[object, str, str]:
    monkeypatch.setattr("sys.argv", ["classy", "train", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code, *capsys.readouterr()


def test_the_command(table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)
    config = write(table.parent / "job.json", settings(table).model_dump(mode="json"))
    before = sorted(table.parent.rglob("*"))
    code, out, err = run_command(capsys, monkeypatch, config, "--dry-run")
    assert (code, err) == (0, "")
    assert "time: about" in out
    assert sorted(table.parent.rglob("*")) == before
    (table.parent / "4.png").write_bytes(b"")
    code, out, err = run_command(capsys, monkeypatch, config, "--dry-run")
    assert (code, out) == (2, "")
    assert err.startswith("error: 1 of 24 files cannot be read")
    assert err.count("\n") == 1
