"""Processes that share parameters by FSDP2: the numbers of one process, and checkpoints for any number."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from classy_vision.config import ConfigError
from classy_vision.data.files import hash_file
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel, build_model, load_weights
from classy_vision.train import TrainConfig, resume, train
from classy_vision.train.config import ScheduleConfig
from classy_vision.train.run_folder import RunFolder, read_state
from classy_vision.train.sharding import REFUSED, check_parameters, check_sharding, wants_sharding
from classy_vision.train.shards import Shards, SpreadTensor, fit_optimizer, join_state, read_whole
from tests.train.command import FSDP, classy, digits_job, head, job, start, write
from tests.train.double import in_float64
from tests.train.stops import TIMES

HEADS = head("colour"), head("tags", "block1"), head("light", "block1")
TASKS = {"colour": {}, "tags": {"kind": "multilabel"}, "light": {"kind": "regression"}}
VIT = {
    "name": "vision_transformer",
    "image_size": 8,
    "patch_size": 4,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 8,
    "dropout_rate": 0.3,
}
VIT_HEADS = head("colour", "layer_0"), head("tags"), head("light")
SHARED = {"mixup": 0.4, "ema": 0.9, "clip_grad_norm": 0.5, "loss_weighting": "uncertainty"}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": "adamw"},
    "averaged epochs": {"swa": {"epoch": 1}},
    "layer rates": {"layer_decay": 0.5, "head_learning_rate": 0.02, "cutmix": 1.0},
    "unfrozen": {"freeze": {"until": "block1"}, "unfreeze_at": {"epoch": 2, "until": "stem"}},
    "frozen": {"freeze_trunk": True, "cache_features": False},
    "muon": {"optimizer": "muon"},
    "schedule-free": {"optimizer": "schedule_free_adamw"},
    "best": {"best": "val/light/loss", "epochs": 3},
}
CASES_OF_VIT: dict[str, dict[str, Any]] = {
    "parts": {"accumulate": 2, "batch_size": 8, "mixup": 0.4},
    "adapters": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.1}, "best": "val/light/loss"},
}


def make_job(table: Path, *heads: Any, **schedule: Any) -> dict[str, Any]:
    """A job whose last batch of evaluation has rows for the first of two processes only."""
    config = job(
        {"source": "table", "file": str(table)},
        *(heads or HEADS),
        tasks=TASKS,
        schedule={"optimizer": "sgd", **schedule},
    )
    if heads:
        config["model"] = {**VIT, "heads": list(heads)}
    return config


def train_on_two(config: dict[str, Any], root: Path, shared: bool = True) -> Path:
    """Trains in float64."""
    output = root / ("shared" if shared else "ddp")
    environment = FSDP if shared else {}
    done = classy(
        write(root / "job.json", config),
        output,
        processes=2,
        module="tests.train.double",
        environment=environment,
    )
    assert done.returncode == 0, done.stderr
    assert ("by FSDP2" in done.stdout) == shared
    return output


def assert_close(run: Path, other: Path, atol: float = 1e-10) -> None:
    one, two = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    torch.testing.assert_close(two, one, rtol=0, atol=atol)
    for first, second in zip(history(run), history(other), strict=True):
        assert second == pytest.approx(first, abs=atol, nan_ok=True)


def history(run: Path) -> list[dict[str, float]]:
    rows = json.loads((run / "metrics.json").read_text())["epochs"]
    return [{k: float("nan") if v is None else v for k, v in row.items() if k not in TIMES} for row in rows]


# -- the numbers of one process


def test_two_processes_that_share_parameters_are_one_and_one_resumes_them(table: Path, tmp_path: Path) -> None:
    config = make_job(table, **SHARED)
    shared = train_on_two(config, tmp_path)
    with in_float64():
        train(TrainConfig.parse(config), tmp_path / "one")
        assert_close(shared, tmp_path / "one")
        for run in (shared, tmp_path / "one"):
            resume(run, ["schedule.epochs=3"])
    assert_close(shared, tmp_path / "one")
    assert not list(shared.glob("checkpoint.shards-*"))  # those that one process does not need any more


@pytest.mark.slow
def test_one_two_by_ddp_and_two_by_fsdp_agree(table: Path, tmp_path: Path) -> None:
    config = make_job(table, **SHARED)
    with in_float64():
        train(TrainConfig.parse(config), tmp_path / "one")
    for shared in (False, True):
        assert_close(train_on_two(config, tmp_path, shared), tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *CASES_OF_VIT])
def test_every_option_gives_the_numbers_of_one_process(case: str, table: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft" if case == "adapters" else "pytorch_optimizer")
    config = make_job(table, *(VIT_HEADS if case in CASES_OF_VIT else ()), **{**CASES, **CASES_OF_VIT}[case])
    with in_float64():
        train(TrainConfig.parse(config), tmp_path / "one")
    assert_close(train_on_two(config, tmp_path), tmp_path / "one")


@pytest.mark.slow
def test_a_head_that_stops_learning_stays_as_it_is(table: Path, tmp_path: Path) -> None:
    config = make_job(table, learning_rate=0.1, epochs=5, ema=0.9)
    config["tasks"] = {**TASKS, "light": {"kind": "regression", "patience": 1}}
    with in_float64():
        train(TrainConfig.parse(config), tmp_path / "one")
    assert_close(train_on_two(config, tmp_path), tmp_path / "one")


@pytest.mark.slow
def test_features_of_a_frozen_trunk_are_not_kept(table: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "job.json", make_job(table, freeze_trunk=True))
    done = classy("train", path, "--output", tmp_path / "two", processes=2, environment=FSDP)
    assert done.returncode == 0, done.stderr
    train(TrainConfig.parse(make_job(table, freeze_trunk=True, cache_features=False)), tmp_path / "one")
    assert_close(tmp_path / "two", tmp_path / "one", atol=1e-4)


def test_one_process_shares_nothing(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    train(TrainConfig.parse(make_job(table, epochs=1)), tmp_path / "run")
    assert "shards" not in read_state(tmp_path / "run" / "checkpoint.pt")
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"


# -- stops


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A config with chance, mixing and an average, and its run on two processes that share parameters."""
    root = tmp_path_factory.mktemp("digits")
    schedule = {"epochs": 4, "batch_size": 32, "optimizer": "sgd", "ema": 0.9, "mixup": 0.4}
    config = digits_job(schedule={**schedule, "best": "val/digit/accuracy"})
    config["model"]["stochastic_depth"] = 0.5
    path = write(root / "digits.json", config)
    done = classy("train", path, "--output", root / "run", processes=2, environment=FSDP)
    assert done.returncode == 0, done.stderr
    return path, root / "run"


def begin(digits: tuple[Path, Path], folder: Path, number: signal.Signals, moment: float) -> None:
    """Ends all processes of a run some seconds after its first epoch."""
    process = start(
        "train", digits[0], "--output", folder, processes=2, environment=FSDP, start_new_session=True
    )
    while not (folder / "metrics.json").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    time.sleep(moment)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.communicate(timeout=60)
    (folder / ".lock").unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_ended_at_any_moment_is_the_run(
    number: signal.Signals, moment: float, digits: tuple[Path, Path], tmp_path: Path
) -> None:
    begin(digits, tmp_path / "run", number, moment)
    done = classy("train", "--resume", tmp_path / "run", processes=2, environment=FSDP)
    assert done.returncode == 0 or "is finished" in done.stderr, done.stderr
    assert_close(tmp_path / "run", digits[1], atol=0)
    assert len(list((tmp_path / "run").glob("checkpoint.shards-*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "shared"), [(1, False), (2, False), (4, True)])
def test_another_number_of_processes_resumes_within_an_epoch(
    processes: int, shared: bool, digits: tuple[Path, Path], tmp_path: Path
) -> None:
    begin(digits, tmp_path / "run", signal.SIGTERM, 0.1)
    environment = FSDP if shared else {}
    done = classy("train", "--resume", tmp_path / "run", processes=processes, environment=environment)
    assert done.returncode == 0, done.stderr
    assert bool(list((tmp_path / "run").glob("checkpoint.shards-*"))) == shared
    assert_close(tmp_path / "run", digits[1], atol=5e-2)


@pytest.mark.slow
def test_what_one_process_began_two_share(table: Path, tmp_path: Path) -> None:
    config = make_job(table, **SHARED)
    for name in ("one", "two"):
        train(TrainConfig.parse(config), tmp_path / name)
    resume(tmp_path / "one", ["schedule.epochs=3"])
    longer = ("--set", "schedule.epochs=3")
    done = classy("train", "--resume", tmp_path / "two", *longer, processes=2, environment=FSDP)
    assert done.returncode == 0, done.stderr
    assert_close(tmp_path / "two", tmp_path / "one", atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_damaged_shard_is_noticed_and_the_checkpoint_before_is_used(
    damage: str, digits: tuple[Path, Path], tmp_path: Path
) -> None:
    begin(digits, tmp_path / "run", signal.SIGTERM, 0.0)
    said = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["shards"]
    shard = tmp_path / "run" / f"checkpoint.shards-{said['number']}" / "1.safetensors"
    if damage == "flip":
        data = bytearray(shard.read_bytes())
        data[-100] ^= 1
        shard.write_bytes(data)
    else:
        shard.unlink()
    done = classy("train", "--resume", tmp_path / "run", processes=2, environment=FSDP)
    assert done.returncode == 0, done.stderr
    assert "is damaged. The checkpoint before it is whole" in done.stdout
    assert_close(tmp_path / "run", digits[1], atol=0)


# -- files


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    """Five rows in three files, as four processes would have two, two, one and none."""
    rows = torch.arange(10.0).view(5, 2)
    for number, part in enumerate((rows[:2], rows[2:4], rows[4:], rows[5:])):
        save_file({"model/w": part.clone()}, tmp_path / f"{number}.safetensors")
    return Shards([tmp_path / f"{number}.safetensors" for number in range(4)])


@pytest.mark.parametrize(("start", "stop"), [(0, None), (0, 5), (1, 4), (2, 4), (3, 5), (5, 5), (0, 1)])
def test_rows_are_read_across_files(start: int, stop: int | None, shards: Shards) -> None:
    found = shards.read("model/w", start, stop)
    assert torch.equal(found, torch.arange(10.0).view(5, 2)[start:stop])


def test_a_checkpoint_in_parts_is_whole_for_one_process(shards: Shards) -> None:
    plain = {"model": {"w": {"in_shards": "model/w"}, "b": torch.ones(1)}, "history": [{"epoch": 1}]}
    joined = join_state(plain, shards)
    whole = torch.arange(10.0).view(5, 2)
    assert isinstance(joined["model"]["w"], SpreadTensor)
    assert torch.equal(read_whole(joined["model"])["w"], whole)
    assert joined["history"] == [{"epoch": 1}]
    state = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": joined["model"]["w"]}}, "param_groups": []}
    fitted = fit_optimizer(state, [torch.zeros(5, 2)])
    assert torch.equal(fitted["state"][0]["exp_avg"], whole)
    assert fitted["state"][0]["step"] == 3


def test_shards_of_no_checkpoint_are_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    state = {"model": {}, "optimizer": {}, "scaler": None, "history": [], "data": "", "progress": None}
    for number in (1, 2, 3):
        digest = folder.write_shard(number, 0, {"model/w": torch.full((2,), float(number))})
        model = {"w": {"in_shards": "model/w"}}
        folder.write_checkpoint({**state, "model": model, "shards": {"number": number, "digests": [digest]}})
    assert {path.name for path in tmp_path.glob("*shards*")} == {"checkpoint.shards-2", "checkpoint.shards-3"}
    assert folder.last_shards() == 3
    (tmp_path / "checkpoint.shards-3" / "0.safetensors").unlink()
    found, wrong = folder.read_checkpoint()
    assert "checkpoint.pt' is damaged" in wrong
    assert found is not None
    assert read_whole(found["model"])["w"].tolist() == [2, 2]
    shutil.rmtree(tmp_path / "checkpoint.shards-2")
    with pytest.raises(ConfigError, match="no other is whole"):
        folder.read_checkpoint()


def test_a_checkpoint_in_parts_is_not_taken_for_weights(shards: Shards) -> None:
    model = build_model({**VIT, "heads": [head("colour", num_classes=2)]})
    state = {"model": {"w": {"in_shards": "model/w"}}, "optimizer": {}, "shards": {"number": 1}}
    with pytest.raises(ConfigError, match=r"in parts.*model\.safetensors"):
        load_weights(model, state)


@pytest.mark.parametrize(
    "said", [{"number": "../1", "digests": ["a"]}, {"number": 1, "digests": []}, {"number": 1}, [1]]
)
def test_a_checkpoint_that_does_not_name_its_shards(said: Any, tmp_path: Path) -> None:
    parts = {"model": {}, "optimizer": {}, "scaler": None, "history": [], "data": "", "progress": None}
    RunFolder(tmp_path).write_checkpoint({**parts, "shards": said})
    with pytest.raises(ConfigError, match="does not say which shards belong to it"):
        read_state(tmp_path / "checkpoint.pt")


def test_a_failed_write_of_a_shard_leaves_the_checkpoint(tmp_path: Path, monkeypatch: Any) -> None:
    folder = RunFolder(tmp_path)
    digest = folder.write_shard(1, 0, {"w": torch.ones(2)})

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(ConfigError, match=r"cannot write '.*checkpoint\.shards-2/0\.safetensors': No space"):
        folder.write_shard(2, 0, {"w": torch.ones(2)})
    assert hash_file(tmp_path / "checkpoint.shards-1" / "0.safetensors") == digest


# -- what does not go together


@pytest.mark.parametrize(("name", "value", "advice"), REFUSED)
def test_options_that_do_not_go_with_it_are_refused(name: str, value: Any, advice: str) -> None:
    with pytest.raises(ConfigError, match=rf"schedule\.{name} = {value!r} does not work with FSDP2.*{advice}"):
        check_sharding(ScheduleConfig.parse({name: value}))
    check_sharding(ScheduleConfig())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FSDP_VERSION", "1"),
        ("FSDP_RESHARD_AFTER_FORWARD", "SHARD_GRAD_OP"),
        ("FSDP_OFFLOAD_PARAMS", "true"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true"),
    ],
)
def test_other_kinds_of_fsdp_are_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    monkeypatch.setenv(name, value)
    assert not wants_sharding()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=f"sets {name.lower()} to '{value}'.*{name}="):
        wants_sharding()


def test_parameters_that_cannot_be_divided_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    classes = {"num_classes": 2}
    one_number = build_model({**VIT, "heads": [head("colour", pooling="gem", **classes)]})
    with pytest.raises(ConfigError, match=r"'heads\..*power' is a single number.*ACCELERATE_USE_FSDP"):
        check_parameters(one_number, 2)
    check_parameters(one_number, 1)
    tied = build_model({**VIT, "heads": [head("colour", **classes)]})
    check_parameters(tied, 2)
    tied.blocks.layer_1.mlp.fc1.weight = tied.blocks.layer_0.mlp.fc1.weight
    with pytest.raises(ConfigError, match=r"'blocks\.layer_1\..*' belongs to several blocks or heads"):
        check_parameters(tied, 2)
    apart = ClassyModel.from_model(torch.nn.Linear(4, 4), input_shape=(4,))
    apart.set_heads({"trunk_output": [FullyConnectedHead("colour", 2)]})
    check_parameters(apart, 2)  # a trunk with a forward of its own has no blocks


@pytest.mark.slow
def test_what_is_refused_leaves_nothing(table: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "job.json", make_job(table, optimizer="lamb"))
    done = classy("train", path, "--output", tmp_path / "run", processes=2, environment=FSDP)
    assert done.returncode != 0
    assert "error: schedule.optimizer = 'lamb' does not work with FSDP2" in done.stderr
    assert not (tmp_path / "run").exists()
