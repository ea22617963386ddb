"""A job with several seeds: what is trained, what is kept, and the spread."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from safetensors.torch import load_file

from classy_vision.cli.train import _Plan
from classy_vision.config import ConfigError
from classy_vision.data.config import TableConfig
from classy_vision.train import TrainConfig, train
from classy_vision.train import run as loop
from classy_vision.train.job import prepare
from classy_vision.train.repeat import Spread, train_folds, train_seeds, with_fold, with_seed
from tests.train.command import digits_job, head, job, write
from tests.train.test_checkup import run_command

HEADS = head("colour"), head("light", "block1")
TASKS = {"colour": {}, "light": {"kind": "regression"}}


def settings(table: Path, **schedule: Any) -> TrainConfig:
    data = {"source": "table", "file": str(table)}
    return TrainConfig.parse(job(data, *HEADS, tasks=TASKS, schedule={"epochs": 2, **schedule}))


def test_a_spread() -> None:
    values = [0.9, 0.95, 1.0]
    assert Spread.of(values) == Spread(fmean(values), stdev(values), 0.9, 1.0)
    assert str(Spread.of(values)) == "0.95 ± 0.05 (0.9 to 1)"
    assert math.isnan(Spread.of([1.0, math.nan]).mean)


def test_runs_are_those_of_their_seeds(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = table.parent / "runs"
    original = loop.Trainer.run_epoch

    def fail(self: loop.Trainer, epoch: int, progress: Any = None) -> Any:
        if epoch == 1 and self.job.settings.schedule.seed == 4:
            raise KeyboardInterrupt
        return original(self, epoch, progress)

    config = write(table.parent / "job.json", settings(table, seed=3).model_dump(mode="json"))
    monkeypatch.setattr(loop.Trainer, "run_epoch", fail)
    code, out, err = run_command(capsys, monkeypatch, config, "--output", folder, "--seeds", 2)
    assert code == 130
    assert "the same command resumes it" in err
    finished = (folder / "seed3" / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(loop.Trainer, "run_epoch", original)
    code, out, err = run_command(capsys, monkeypatch, config, "--output", folder, "--seeds", 2)
    assert (code, err) == (0, "")
    assert (folder / "seed3" / "model.safetensors").stat().st_mtime_ns == finished
    train(with_seed(settings(table), 4), table.parent / "alone")
    ours, theirs = (load_file(run / "model.safetensors") for run in (folder / "seed4", table.parent / "alone"))
    assert all(ours[key].equal(theirs[key]) for key in ours)
    finals = [json.loads((folder / run / "metrics.json").read_text())["final"] for run in ("seed3", "seed4")]
    values = [final["val/colour/loss"] for final in finals]
    said = json.loads((folder / "seeds.json").read_text())
    assert said["runs"] == ["seed3", "seed4"]
    assert said["metrics"]["val/colour/loss"]["mean"] == pytest.approx(fmean(values))
    assert said["metrics"]["val/colour/loss"]["std"] == pytest.approx(stdev(values))
    assert f"val/colour/loss: {Spread.of(values)}" in out


def test_runs_of_another_job_are_not_mixed_in(table: Path) -> None:
    folder = table.parent / "runs"
    train(settings(table, epochs=1), folder / "seed0")
    with pytest.raises(ConfigError, match=r"was trained with schedule.learning_rate = 0.01, and not 0.02"):
        train_seeds(settings(table, epochs=1, learning_rate=0.02), folder, 2)
    assert not (folder / "seed1").exists()
    found = train_seeds(settings(table, epochs=1, learning_rate=0.02), folder, 2, force=True)
    assert {"val/colour/accuracy", "val/light/mae"} < found.keys()
    assert train_seeds(settings(table, epochs=1, learning_rate=0.02, workers=1), folder, 2) == found


def test_what_cannot_be_repeated(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="2 runs or more"):
        train_seeds(settings(table), table.parent / "runs", 1)
    with pytest.raises(ConfigError, match="is not a folder of runs with several seeds"):
        train_seeds(settings(table), table.parent, 2)
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="one process"):
            train_seeds(settings(table), table.parent / "runs", 2)
    config = write(table.parent / "job.json", settings(table).model_dump(mode="json"))
    code, _, err = run_command(capsys, monkeypatch, config, "--seeds", 2, "--dry-run")
    assert (code, "--seeds and --dry-run were given together: choose one" in err) == (2, True)


# -- folds


def without_split(table: Path) -> Path:
    rows = [row.split(",") for row in table.read_text().splitlines()]
    table.write_text("\n".join(",".join([row[0], *row[2:]]) for row in rows) + "\n")
    return table


@pytest.mark.parametrize("stratify", [True, False])
def test_each_row_is_held_out_once(table: Path, stratify: bool) -> None:
    one = settings(without_split(table))
    one = one.model_copy(update={"data": one.data.model_copy(update={"stratify": stratify})})
    jobs = [prepare(with_fold(one, 4, fold)) for fold in range(4)]
    parts = [job.records.rows(held_out=True) for job in jobs]
    assert sorted(row for part in parts for row in part) == list(range(24))
    assert {len(part) for part in parts} <= set(range(4, 10))
    names = [{job.records.columns["colour"][row] for row in part} for job, part in zip(jobs, parts)]
    assert not stratify or all({"red", "lime", "blue"} <= colours for colours in names)


def test_folds_are_trained_one_by_one(
    table: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = table.parent / "runs"
    wanted = settings(without_split(table), epochs=1).model_dump(mode="json")
    config = write(table.parent / "job.json", wanted)
    code, out, err = run_command(capsys, monkeypatch, config, "--output", folder, "--folds", 2)
    assert (code, err) == (0, "")
    assert "val/colour/accuracy: " in out
    assert json.loads((folder / "folds.json").read_text())["runs"] == ["fold0", "fold1"]
    assert train_folds(TrainConfig.parse(wanted), folder, 2).keys() >= {"val/light/mae"}


def test_what_cannot_be_divided(table: Path) -> None:
    with pytest.raises(ConfigError, match="the data say themselves what is held out"):
        train_folds(settings(table), table.parent / "runs", 2)
    with pytest.raises(ConfigError, match="'digits' has its own split"):
        train_folds(TrainConfig.parse(digits_job()), table.parent / "runs", 2)
    with pytest.raises(ConfigError, match="fold = 2 needs more folds than folds = 2"):
        TableConfig.parse({"source": "table", "file": "a.csv", "folds": 2, "fold": 2})
    assert not (table.parent / "runs").exists()


def test_the_only_row_of_a_class_is_always_trained_on(table: Path) -> None:
    rows = without_split(table).read_text().splitlines()
    rows[2] = rows[2].replace("lime", "violet")
    assert "violet" in rows[2]
    table.write_text("\n".join(rows) + "\n")
    for fold in range(4):
        found = prepare(with_fold(settings(table), 4, fold))
        assert "violet" in found.tasks["colour"].classes


def test_a_stopped_command_says_how_to_resume_without_losing_runs() -> None:
    plan = _Plan(seeds=3, folds=None, dry_run=False, find_rate=False, analyse_heads=False, plot=None)
    assert plan.describe_rest(Path("runs"), force=True) == "the same command without --force resumes it"
    assert plan.describe_rest(Path("runs"), force=False) == "the same command resumes it"
