"""Features of a frozen trunk: computed once, the same numbers as without, and others where anything changes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.train import TrainConfig, check, feature_cache, feature_store, figures, resume, train
from classy_vision.train.feature_cache import Layout
from classy_vision.train.run import Trainer
from classy_vision.weights.files import read_tensors
from tests.train.command import classy, head, job, write
from tests.train.dense import CLASSES, make_dense_table

HEADS = (
    head("colour", dropout_rate=0.5),
    head("light", "block1", conv_planes=4),
    {
        "name": "concat",
        "unique_id": "tags",
        "fork_block": ["block1", "trunk_output"],
        "pooling": ["max", "gem"],
        "norm": "batch",
    },
)
TASKS: dict[str, Any] = {"colour": {}, "light": {"kind": "regression"}, "tags": {"kind": "multilabel"}}
VIT = {
    "name": "vision_transformer",
    "image_size": 8,
    "patch_size": 4,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 16,
    "feature_format": "tokens",
    "dropout_rate": 0.2,
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of features of this test alone."""
    monkeypatch.setenv(feature_store.FOLDER, str(tmp_path / "features"))
    for name in ("draw_curves", "draw_predictions"):  # which take longer than all the rest
        monkeypatch.setattr(figures, name, lambda *_: b"")
    return tmp_path / "features"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images with which a trunk ran for features."""
    seen: list[int] = []
    read = feature_cache.read_inputs

    def count(model: Any, x: Tensor) -> Any:
        seen.append(len(x))
        return read(model, x)

    monkeypatch.setattr(feature_cache, "read_inputs", count)
    return seen


def settings(table: Path, *heads: Any, **sections: Any) -> TrainConfig:
    heads = heads or HEADS
    sections["schedule"] = {"epochs": 3, "freeze_trunk": True, **sections.get("schedule", {})}
    data = {"source": "table", "file": str(table), **sections.pop("data", {})}
    tasks = {one["unique_id"]: TASKS[one["unique_id"]] for one in heads}
    config = job(data, *heads, **{"tasks": tasks, **sections})
    config["model"] |= sections.get("model", {})
    return TrainConfig.parse(config)


def with_cache(config: TrainConfig, wanted: bool | str) -> TrainConfig:
    schedule = config.schedule.model_copy(update={"cache_features": wanted})
    return config.model_copy(update={"schedule": schedule})


def measured(folder: Path) -> list[dict[str, float]]:
    rows = json.loads((folder / "metrics.json").read_text())["epochs"]
    return [{key: value for key, value in row.items() if "/" in key} for row in rows]


def check_equal(config: TrainConfig, folder: Path) -> None:
    """Trains with and without kept features, and compares all numbers to the last bit."""
    train(with_cache(config, False), folder / "images")
    train(with_cache(config, True), folder / "cached")
    assert measured(folder / "cached") == measured(folder / "images")
    first, second = (read_tensors(folder / run / "model.safetensors") for run in ("images", "cached"))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"accumulate": 2, "channels_last": False},
        {"ema": 0.9, "mixed_precision": "bf16", "balance": "colour"},
        {"freeze_trunk": False, "freeze": {"until": "trunk_output"}, "optimizer": "sgd"},
    ],
)
def test_numbers_are_those_without(table: Path, schedule: dict[str, Any], tmp_path: Path) -> None:
    check_equal(settings(table, schedule=schedule), tmp_path)


@pytest.mark.parametrize("pooling", ["token", "token_and_mean", "attention"])
def test_numbers_of_tokens(table: Path, pooling: str, tmp_path: Path) -> None:
    heads = head("colour", "layer_0", pooling=pooling), head("light", "ln", pooling=pooling, dropout_rate=0.5)
    check_equal(settings(table, *heads, model=VIT | {"heads": heads}), tmp_path)


def test_numbers_of_pixels(tmp_path: Path) -> None:
    table = make_dense_table(tmp_path)
    heads = [
        {"name": "linear_dense", "unique_id": "mask", "fork_block": "block1"},
        {"name": "linear_dense", "unique_id": "depth", "fork_block": "block1"},
    ]
    data = {"source": "table", "file": str(table), "image_size": 16}
    tasks = {"mask": {"kind": "segmentation", "classes": CLASSES}, "depth": {"kind": "dense_regression"}}
    config = job(data, *heads, tasks=tasks, schedule={"epochs": 2, "freeze_trunk": True})
    check_equal(TrainConfig.parse(config), tmp_path)


def test_images_are_seen_once(table: Path, root: Path, runs: list[int], tmp_path: Path) -> None:
    config = settings(table)
    train(config, tmp_path / "first")
    # 18 to train on in 5 chunks of 4, 6 held out in 2, and the first chunk of both, which names them.
    assert sorted(runs) == sorted([4, 4, *[4] * 5, 4, 2])
    files = {path: path.stat().st_mtime_ns for path in root.glob("*/*.safetensors")}
    assert len(files) == 2 * 4
    runs.clear()
    seeded = config.schedule.model_copy(update={"learning_rate": 0.1, "epochs": 2})
    train(config.model_copy(update={"schedule": seeded}), tmp_path / "second")
    assert runs == [4, 4]
    assert {path: path.stat().st_mtime_ns for path in root.glob("*/*.safetensors")} == files


def test_features_are_shared_one_by_one(table: Path, root: Path, tmp_path: Path) -> None:
    """A run that reads one more block computes the features of that block alone, and the others are there."""
    train(settings(table, head("colour")), tmp_path / "first")
    files = {path: path.stat().st_mtime_ns for path in root.glob("*/*.safetensors")}
    train(settings(table, head("colour"), head("light", "block1")), tmp_path / "second")
    both = {path: path.stat().st_mtime_ns for path in root.glob("*/*.safetensors")}
    assert len(both) == 2 * len(files) == 4
    assert files.items() <= both.items()


def test_an_array_is_judged_by_its_contents(table: Path, runs: list[int], tmp_path: Path) -> None:
    """Arrays of one shape have one size, and their time may be set."""
    file = table.parent / "9.npy"
    np.save(file, np.zeros((8, 9, 3), np.uint8))
    table.write_text(table.read_text().replace("\n9.png", "\n9.npy"))
    train(settings(table), tmp_path / "first")
    before = file.stat()
    np.save(file, np.full((8, 9, 3), 255, np.uint8))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    runs.clear()
    train(settings(table), tmp_path / "second")
    assert len(runs) > 2


def change_image(config: TrainConfig, table: Path) -> TrainConfig:
    Image.new("RGB", (9, 8), "white").save(table.parent / "9.png")
    return config


def change_weights(config: TrainConfig, table: Path) -> TrainConfig:
    return config.model_copy(update={"schedule": config.schedule.model_copy(update={"seed": 1})})


def change_preprocessing(config: TrainConfig, table: Path) -> TrainConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"resize": 9})})


def change_block(config: TrainConfig, table: Path) -> TrainConfig:
    return settings(table, head("colour", "block1"), schedule={"cache_features": True})


@pytest.mark.parametrize("change", [change_image, change_weights, change_preprocessing, change_block])
def test_what_changes_is_computed_again(
    change: Callable[[TrainConfig, Path], TrainConfig],
    table: Path,
    runs: list[int],
    root: Path,
    tmp_path: Path,
) -> None:
    config = settings(table, schedule={"cache_features": True})
    train(config, tmp_path / "first")
    before = {path.name for path in root.iterdir()}
    runs.clear()
    config = change(config, table)
    train(config, tmp_path / "second")
    assert len(runs) > 2
    assert {path.name for path in root.iterdir()} > before
    train(with_cache(config, False), tmp_path / "images")
    assert measured(tmp_path / "second") == measured(tmp_path / "images")


def test_a_change_that_only_the_numbers_show(
    table: Path, root: Path, runs: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where code or kernels are others: the first chunk tells."""
    train(settings(table), tmp_path / "first")
    read = feature_cache.read_inputs
    monkeypatch.setattr(feature_cache, "read_inputs", lambda *of: ((k, x + 1) for k, x in read(*of)))
    train(settings(table), tmp_path / "second")
    assert len(list(root.iterdir())) == 2 * 2 * 4


REFUSED = [
    ({"data": {"augment": "flip"}}, "data.augment changes the images"),
    ({"data": {"crops": 3}}, "evaluation sees 3 crops of each image"),
    ({"schedule": {"mixup": 0.2}}, "mix the images"),
    ({"schedule": {"freeze_trunk": False}}, "does not freeze all blocks"),
    ({"schedule": {"unfreeze_at": {"epoch": 2}}}, "does not freeze all blocks"),
    ({"schedule": {"freeze_trunk": False, "freeze": {"until": "stem"}}}, "does not freeze all blocks"),
]


@pytest.mark.parametrize(("sections", "said"), REFUSED)
def test_features_that_change_are_not_kept(
    sections: dict[str, Any],
    said: str,
    table: Path,
    root: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    demanded = {**sections, "schedule": {**sections.get("schedule", {}), "cache_features": True}}
    with pytest.raises(ConfigError, match=said):
        train(settings(table, **demanded), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(settings(table, **sections), tmp_path / "run")
    told = capsys.readouterr().out.count("the frozen trunk runs in every epoch")
    assert told == (0 if "freeze" in said else 1)
    assert not root.exists()


def test_a_finished_run_is_not_lost_to_features_that_cannot_be_kept(table: Path, tmp_path: Path) -> None:
    train(settings(table, data={"augment": "crop"}), tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match="data.augment changes the images"):
        resume(tmp_path / "run", ["schedule.epochs=5", "schedule.cache_features=true"])
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == before


def test_without_a_home_folder_images_are_read(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(feature_store.FOLDER)
    monkeypatch.setattr(Path, "expanduser", fail)
    train(settings(table), tmp_path / "run")
    assert "the frozen trunk runs in every epoch: Could not determine home directory" in capsys.readouterr().out


def test_blocks_up_to_those_that_are_read_suffice(table: Path, runs: list[int], tmp_path: Path) -> None:
    schedule = {"freeze_trunk": False, "freeze": {"until": "block1"}, "cache_features": True}
    check_equal(settings(table, head("colour", "block1"), schedule=schedule), tmp_path)
    assert runs


def test_inner_layers_are_read_through_a_norm_that_learns(table: Path, tmp_path: Path) -> None:
    heads = (head("colour", "layer_0", pooling="token"),)
    schedule = {"freeze_trunk": False, "freeze": {"until": "layer_0"}, "cache_features": True}
    with pytest.raises(ConfigError, match="does not freeze all blocks"):
        train(settings(table, *heads, schedule=schedule, model=VIT | {"heads": heads}), tmp_path / "run")


def test_a_kill_while_features_are_written(
    table: Path, root: Path, runs: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = settings(table, head("colour"), schedule={"cache_features": True})
    train(with_cache(config, False), tmp_path / "images")
    monkeypatch.setattr(feature_store, "SHARD_ROWS", 4)
    write_tensors, written = feature_store.write_tensors, []

    def fail(path: Path, *rest: Any) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        write_tensors(path, *rest)
        written.append(path)

    monkeypatch.setattr(feature_store, "write_tensors", fail)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    monkeypatch.setattr(feature_store, "write_tensors", write_tensors)
    runs.clear()
    resume(tmp_path / "run")
    assert len(runs) == 2 + 7 - 3
    assert measured(tmp_path / "run") == measured(tmp_path / "images")


def test_a_run_is_stopped_while_features_are_computed(
    table: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = settings(table)
    train(with_cache(config, False), tmp_path / "images")
    opening = Trainer._open_features

    def stop(trainer: Trainer, epoch: int) -> bool:
        trainer.is_stopping = lambda: True
        return opening(trainer, epoch)

    monkeypatch.setattr(Trainer, "_open_features", stop)
    with pytest.raises(SystemExit):
        train(config, tmp_path / "run")
    monkeypatch.undo()
    resume(tmp_path / "run")
    assert measured(tmp_path / "run") == measured(tmp_path / "images")


def test_a_damaged_shard_is_computed_again(table: Path, root: Path, runs: list[int], tmp_path: Path) -> None:
    train(settings(table), tmp_path / "first")
    file = max(root.glob("*/*.safetensors"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-9])
    runs.clear()
    train(settings(table), tmp_path / "second")
    assert len(runs) > 2
    assert measured(tmp_path / "first") == measured(tmp_path / "second")


def test_unreadable_images_are_left_out(table: Path, tmp_path: Path) -> None:
    (table.parent / "1.png").write_bytes(b"no image")
    (table.parent / "4.png").write_bytes(b"no image")
    for wanted in (False, True):
        config = settings(table, data={"on_bad_image": "skip"}, schedule={"cache_features": wanted})
        train(config, tmp_path / str(wanted))
    found, expected = (measured(tmp_path / str(wanted)) for wanted in (True, False))
    for ours, theirs in zip(found, expected):
        assert ours == pytest.approx(theirs, rel=1e-5)
    with pytest.raises(ConfigError, match=r"1\.png.*Take it out of the data"):
        train(settings(table), tmp_path / "strict")


def test_a_dry_run_writes_nothing(table: Path, root: Path) -> None:
    assert any("for the first epoch" in line for line in check(settings(table)).lines)
    assert not root.exists()


# -- space


def test_too_little_space(
    table: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv(feature_store.LIMIT, "1e-6")
    train(settings(table), tmp_path / "run")
    assert (
        "the frozen trunk runs in every epoch: the features of the frozen trunk take" in capsys.readouterr().out
    )
    train(settings(table, schedule={"cache_features": False}), tmp_path / "images")
    assert measured(tmp_path / "run") == measured(tmp_path / "images")
    with pytest.raises(ConfigError, match="CLASSY_FEATURES_GB allows 1.00KB in all"):
        train(settings(table, schedule={"cache_features": True}), tmp_path / "demanded")
    assert not (tmp_path / "demanded").exists()
    monkeypatch.setenv(feature_store.LIMIT, "much")
    with pytest.raises(ConfigError, match="'much' is not a number of gigabytes"):
        train(settings(table), tmp_path / "demanded")
    monkeypatch.delenv(feature_store.LIMIT)
    monkeypatch.setattr(feature_store, "RESERVE", 2**60)
    with pytest.raises(ConfigError, match="are free at"):
        train(settings(table, schedule={"cache_features": True}), tmp_path / "demanded")


def test_a_disk_that_fails(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_store, "write_tensors", fail)
    train(settings(table), tmp_path / "run")
    assert "cannot keep features in" in capsys.readouterr().out
    assert len(measured(tmp_path / "run")) == 3


@pytest.mark.parametrize("last", [False, True])
def test_features_lie_in_memory_as_before(last: bool) -> None:
    x = torch.rand(2, 3, 4, 5)
    x = x.to(memory_format=torch.channels_last) if last else x
    layout = Layout.of(x)
    packed = layout.pack(x)
    assert packed.is_contiguous()
    found = layout.unpack(packed)
    assert torch.equal(found, x)
    assert found.stride() == x.stride()


@pytest.mark.slow
def test_two_processes_share_the_work(table: Path, tmp_path: Path) -> None:
    for name in ("auto", "false"):
        config = settings(table, schedule={"cache_features": {"auto": "auto", "false": False}[name]})
        file = write(tmp_path / f"{name}.json", config.model_dump(mode="json"))
        done = classy("train", file, "--output", tmp_path / name, processes=2)
        assert done.returncode == 0, done.stderr
    assert measured(tmp_path / "auto") == measured(tmp_path / "false")
