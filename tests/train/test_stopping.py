"""What ends a run before its end, and how it goes on: real processes, signals and damaged files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from classy_vision.config import ConfigError, OperationError
from classy_vision.train import TrainConfig, resume, train
from classy_vision.train.run import Trainer
from classy_vision.train.run_folder import RunFolder, hash_state, read_state
from tests.train.command import classy, digits_job, head, job, start, write
from tests.train.conftest import make_table

TIMES = ("seconds", "images_per_second")
EVERYTHING = {
    "mixup": 0.4,
    "cutmix": 1.0,
    "ema": 0.9,
    "accumulate": 2,
    "layer_decay": 0.8,
    "head_learning_rate": {"digit": 0.02},
    "freeze": {"until": "stem"},
    "unfreeze_at": {"epoch": 3},
    "balance": "digit",
    "best": "val/digit/accuracy",
    "loss_weighting": "uncertainty",
    "clip_grad_norm": 1.0,
}
MOMENTS = [round(Random(i).uniform(0, 2.5), 3) for i in range(10)]
"""Seconds after the first epoch."""


def settings(table: Path, **sections: Any) -> TrainConfig:
    """A job with every kind of chance: order, augmentation, dropout and stochastic depth."""
    data = {"source": "table", "file": str(table), "augment": "crop", **sections.pop("data", {})}
    config = job(data, head("colour", dropout_rate=0.5), **sections)
    config["model"]["stochastic_depth"] = 0.5
    return TrainConfig.parse(config)


def history(run: Path) -> list[dict[str, float]]:
    rows = json.loads((run / "metrics.json").read_text())["epochs"]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def assert_same(run: Path, other: Path) -> None:
    one, two = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert history(run) == history(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    train(settings(make_table(root), schedule={"epochs": 3}), root / "run")
    return root / "run"


@pytest.fixture
def begun(whole: Path, tmp_path: Path) -> Path:
    """The run, stopped after its second epoch."""

    def stop(self: Trainer, epoch: int, *progress: Any) -> Any:
        return run_epoch(self, epoch, *progress) if epoch < 2 else pytest.fail("stopped")

    run_epoch = Trainer.run_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run_epoch", stop)
        with pytest.raises(pytest.fail.Exception, match="stopped"):
            train(settings(whole.parent / "table.csv", schedule={"epochs": 3}), tmp_path / "run")
    return tmp_path / "run"


# -- SIGTERM


@pytest.mark.parametrize("steps", [1, 4, 6])  # of 4 per epoch; evaluation counts as two more
def test_a_terminated_run_goes_on_within_the_epoch(
    steps: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []
    losses = Trainer.losses

    def terminate(self: Trainer, *args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == steps:
            signal.raise_signal(signal.SIGTERM)
        return losses(self, *args, **options)

    monkeypatch.setattr(Trainer, "losses", terminate)
    with pytest.raises(SystemExit, match="143"):
        train(settings(whole.parent / "table.csv", schedule={"epochs": 3}), tmp_path / "run")
    monkeypatch.setattr(Trainer, "losses", losses)
    assert len(calls) == max(steps, min(steps + 1, 5)) - (steps == 1)
    state = read_state(tmp_path / "run" / "checkpoint.pt")
    assert (state["history"], state["progress"]["step"]) == ([], min(steps, 4))
    assert f"resume with: classy train --resume {tmp_path / 'run'}" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resume(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def state_of(pid: int) -> str | None:
    """The state of a process as Linux says it; None where it is gone, or dead and not waited for."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None
    return None if said == "Z" else said


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def run_digits(root: Path, **schedule: Any) -> tuple[Path, Path]:
    """A config with chance in the model and two workers, and its run without a stop."""
    config = digits_job(schedule={"epochs": 6, "batch_size": 32, "workers": 2, **schedule})
    config["data"] |= {"augment": {"crop": [0.7, 1.0], "policy": "randaugment"}} if schedule else {}
    config["model"]["stochastic_depth"] = 0.5
    config["model"]["heads"][0]["dropout_rate"] = 0.5
    path = write(root / "digits.json", config)
    done = classy("train", path, "--output", root / "run")
    assert done.returncode == 0, done.stderr
    return path, root / "run"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return run_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same with all that a run keeps beside its weights."""
    return run_digits(tmp_path_factory.mktemp("everything"), **EVERYTHING)


def end_and_resume(config: Path, whole: Path, folder: Path, number: signal.Signals, moment: float) -> None:
    """Ends a run some seconds after its first epoch, resumes it, and compares it with the whole one."""
    process = start("train", config, "--output", folder)
    while not (folder / "metrics.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    time.sleep(moment)
    workers = children(process.pid)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    if not (folder / "model.safetensors").exists():
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number], err
    time.sleep(0.5)
    assert [state_of(pid) for pid in workers] == [None] * len(workers)
    done = classy("train", "--resume", folder)
    assert done.returncode == 0 or "is finished" in done.stderr
    assert_same(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.13, 0.31, 0.7])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_ended_at_any_moment_is_the_run(
    number: signal.Signals, moment: float, digits: tuple[Path, Path], tmp_path: Path
) -> None:
    end_and_resume(*digits, tmp_path / "run", number, moment)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_with_everything_on_that_is_ended_is_the_run(
    number: signal.Signals, moment: float, everything: tuple[Path, Path], tmp_path: Path
) -> None:
    end_and_resume(*everything, tmp_path / "run", number, moment)


@pytest.mark.slow
def test_both_of_two_processes_stop_after_the_same_step(digits: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start("train", digits[0], "--output", folder, processes=2)
    while not (folder / "metrics.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert f"stopped; resume with: classy train --resume {folder}" in out, err
    done = classy("train", "--resume", folder, processes=2)
    assert done.returncode == 0, done.stderr
    one, two = history(digits[1]), history(folder)
    for first, second in zip(one, two):
        assert second == pytest.approx(first, rel=1e-2, abs=0.02)


@pytest.mark.slow
def test_a_killed_worker_is_one_line(digits: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start("train", digits[0], "--output", folder)
    while not (folder / "metrics.json").exists():
        time.sleep(0.01)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert err.startswith("error: a process that reads images was killed")
    assert err.endswith(f"Resume with: classy train --resume {folder}\n")
    assert err.count("\n") == 1


# -- damage


def flip_bit(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [i / 8 + 0.05 for i in range(8)])
def test_a_flipped_bit_changes_no_run(place: float, begun: Path, whole: Path, capsys: Any) -> None:
    flip_bit(begun / "checkpoint.pt", place)
    resume(begun)
    assert_same(begun, whole)
    if "is damaged" in capsys.readouterr().out:  # else the bit was in the padding
        assert place


def test_a_flipped_weight_is_noticed_and_the_checkpoint_before_is_used(
    begun: Path, whole: Path, capsys: Any
) -> None:
    state = torch.load(begun / "checkpoint.pt", weights_only=True)
    next(iter(state["model"].values())).view(-1)[0] += 1e-3
    torch.save(state, begun / "checkpoint.pt")
    resume(begun)
    said = capsys.readouterr().out
    assert "checkpoint.pt' is damaged" in said
    assert "The checkpoint before it is whole: continuing after 1 epochs" in said
    assert_same(begun, whole)


def test_where_no_checkpoint_is_whole_nothing_is_changed(begun: Path) -> None:
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (begun / name).write_bytes(b"nothing")  # a full disk, or another program
    before = sorted(path.name for path in begun.iterdir())
    with pytest.raises(ConfigError, match=r"checkpoint\.pt' is damaged, and no other is whole"):
        resume(begun)
    assert sorted(path.name for path in begun.iterdir()) == before


def test_a_checkpoint_without_a_hash_state_is_read(begun: Path, whole: Path, capsys: Any) -> None:
    """As versions before wrote them."""
    state = read_state(begun / "checkpoint.pt")
    del state["progress"]
    torch.save(state, begun / "old.pt")  # the checkpoint is mapped into memory
    (begun / "old.pt").replace(begun / "checkpoint.pt")
    (begun / "checkpoint.previous.pt").unlink()
    resume(begun)
    assert "damaged" not in capsys.readouterr().out
    assert_same(begun, whole)


def test_a_hash_state_is_of_names_types_shapes_and_numbers() -> None:
    x = torch.arange(4.0)
    states: list[dict[str, Any]] = [
        {"a": x},
        {"b": x},
        {"a": x.view(2, 2)},
        {"a": x.int()},
        {"a": -x},
        {"a": [x]},
        {"a": {"a": x}},
        {"a": 1},
        {"a": 1.0},
        {"a": None},
        {1: x},
        {"a": torch.zeros(0)},
    ]
    assert len({hash_state(state) for state in states}) == len(states)
    assert hash_state({"a": x.view(2, 2).T.contiguous().T}) == hash_state({"a": x.view(2, 2)})


# -- one command at a time


def test_a_folder_that_is_in_use_is_refused_before_data_are_read(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classy_vision.train.run.prepare", lambda *_: pytest.fail("data were read"))
    config = settings(whole.parent / "table.csv")
    shutil.copytree(whole, tmp_path / "run")
    lock = str(tmp_path / "run" / ".lock")
    code = (  # not by RunFolder, since importing torch takes seconds
        f"import sys, filelock\nwith filelock.FileLock({lock!r}): print('locked', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"locked\n"
    for command in (lambda: train(config, tmp_path / "run", force=True), lambda: resume(tmp_path / "run")):
        with pytest.raises(ConfigError, match="another command is using"):
            command()
    other.kill()
    other.communicate()
    with pytest.raises(ConfigError, match="is finished"):  # the lock died with its process
        resume(tmp_path / "run")
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_lock_leaves_no_folders(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a" / "b").lock():
        pass
    assert not list(tmp_path.iterdir())


# -- longer


def test_a_finished_run_is_trained_for_longer(whole: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    resume(run, ["schedule.epochs=5"])
    assert (
        "training continues after 3 epochs to 5: from here on the learning rate is that"
        in capsys.readouterr().out
    )
    rows = history(run)
    assert rows[:3] == history(whole)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[3]["learning_rate"] > rows[2]["learning_rate"]
    assert RunFolder(run).settings().schedule.epochs == 5
    with pytest.raises(ConfigError, match="is finished: all 5 epochs are done"):
        resume(run)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.epochs=2", "epochs = 2, but epoch 3 of .* is done: give at least 3"),
        ("schedule.epochs=3", "is finished: all 3 epochs are done; .* --set schedule.epochs=6"),
        ("schedule.seed=2", r"schedule\.seed=2: a run that is resumed can change only schedule.epochs"),
    ],
)
def test_what_cannot_be_changed(override: str, message: str, whole: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        resume(whole, [override])
    assert (whole / "model.safetensors").exists()


def test_a_run_that_an_earlier_version_finished_has_no_checkpoint(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.pt").unlink()
    with pytest.raises(ConfigError, match="has no checkpoint to continue from.*--set weights="):
        resume(tmp_path / "run", ["schedule.epochs=5"])


# -- a loss that is not finite


def test_a_loss_that_is_not_finite_ends_the_run_at_its_step(
    begun: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (begun / "checkpoint.pt").read_bytes()
    calls = []
    losses = Trainer.losses

    def fail(self: Trainer, *args: Any, **options: Any) -> Any:
        calls.append(args)
        sums, counts = losses(self, *args, **options)
        return sums * (float("nan") if len(calls) == 2 else 1), counts

    monkeypatch.setattr(Trainer, "losses", fail)
    with pytest.raises(OperationError) as caught:
        resume(begun)
    monkeypatch.setattr(Trainer, "losses", losses)
    message = str(caught.value)
    assert "the loss of head 'colour' is not a finite number in epoch 3, step 2 (of " in message
    rows = sorted(int(row) for row in calls[1][1].rows)
    assert str(whole.parent / f"{rows[0]}.png") in message
    assert caught.value.exit_code == 1
    assert len(calls) == 2
    assert (begun / "checkpoint.pt").read_bytes() == before
    resume(begun)
    assert_same(begun, whole)
