"""What a job may say, and what is said to one that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from classy_vision.config import ConfigError
from classy_vision.train.config import TrainConfig, dump_settings, load_settings
from tests.train.command import digits_job, write


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("data", {"source": "digit"}, "data: unknown source 'digit'; did you mean 'digits'"),
        ("data", {"image_size": 8}, "data: key 'source' is required"),
        ("data", {"source": "digits", "image_sise": 8}, "did you mean 'image_size'"),
        ("data", {"source": "digits", "image_size": 8, "resize": 4}, "resize = 4 is below image_size = 8"),
        ("data", {"source": "digits", "crop_area": [0.5, 2.0]}, "crop_area"),
        ("data", {"source": "digits", "value_range": [5, 5]}, "what becomes 0, what becomes 1"),
        ("data", {"source": "folder", "root": "x", "test": 1.5}, "test"),
        ("schedule", {"epoch": 3}, "schedule: unknown key 'epoch'; did you mean 'epochs'"),
        ("schedule", {"learning_rate": "fast"}, "learning_rate = 'fast'"),
        ("schedule", {"epochs": 2, "warmup_epochs": 2}, "leaves none of 2 epochs"),
        ("schedule", {"optimizer": "adam"}, "input should be 'sgd', 'adamw'"),
        ("schedule", {"seed": 2**63}, "seed = 9223372036854775808"),
        ("data", {"source": ["digits"]}, "unknown source"),
        ("schedule", {"workers": 9999}, "workers = 9999: input should be less than or equal to 256"),
        ("tasks", {"digit": {"knd": "regression"}}, "tasks.digit: unknown key 'knd'; did you mean 'kind'"),
        ("tasks", {"digit": {"kind": "regression", "label_smoothing": 0.1}}, "is for classification"),
        ("tasks", {"digit": {"kind": "regression", "classes": ["a"]}}, "regression has no classes"),
        ("tasks", {"digit": {"classes": ["a", "a"]}}, "is there twice"),
        ("data", {"source": "folder", "root": "x", "clip": {}}, "data: key 'clip.frames' is required"),
        ("data", {"source": "folder", "root": "x", "clip": {"frame": 8}}, "unknown key 'frame'; did you mean"),
        ("data", {"source": "folder", "root": "x", "clip": {"frames": 8, "crops": 2}}, "crops = 2"),
        ("data", {"source": "folder", "root": "x", "clip": {"frames": 8, "fps": 1e4}}, "less than or equal to"),
        ("data", {"source": "digits", "clip": {"frames": 8}}, "the digits are images"),
        ("data", {"source": "digits", "eval_size": 64, "resize": 48}, "resize = 48 is below eval_size = 64"),
        ("taskz", {}, "unknown key 'taskz'; did you mean 'tasks'"),
        ("schedule", 3, "schedule is a mapping"),
    ],
)
def test_wrong_values_are_named(section: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        TrainConfig.parse({**digits_job(), section: value})


def test_a_config_is_written_as_it_is_read(tmp_path: Path) -> None:
    settings = TrainConfig.parse(digits_job(tasks={"digit": {"classes": [0, 1]}, "loop": None}))
    assert settings.tasks["digit"].classes == ("0", "1")
    (tmp_path / "again.yaml").write_text(dump_settings(settings))
    again = load_settings(tmp_path / "again.yaml")
    assert dump_settings(again) == dump_settings(settings)


def test_overrides_reach_any_key(tmp_path: Path) -> None:
    path = write(tmp_path / "job.json", digits_job())
    changes = ["schedule.learning_rate=1e-2", "model.heads.0.num_classes=10", "tasks.digit.weight=2"]
    settings = load_settings(path, [*changes, "tasks.loop.weight=1", "data.mean=[0.1]"])
    assert settings.schedule.learning_rate == 0.01
    assert settings.model["heads"][0]["num_classes"] == 10
    assert settings.tasks["digit"].weight == 2
    assert settings.data.mean == (0.1,)


def test_relative_paths_start_at_the_configs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs"
    (folder / "trunk").mkdir(parents=True)
    data = {"source": "table", "file": "../birds.csv", "images": "photos"}
    path = write(folder / "job.json", {**digits_job(weights="trunk"), "data": data})
    monkeypatch.chdir(tmp_path)
    settings = load_settings("configs/job.json")
    assert settings.data == load_settings(path).data.model_copy(
        update={"file": "configs/../birds.csv", "images": "configs/photos"}
    )
    assert settings.weights == "configs/trunk"
    given = load_settings(path, ["data.file=birds.csv", "weights=timm/resnet18.a1_in1k"])
    assert (given.data.file, given.weights) == ("birds.csv", "timm/resnet18.a1_in1k")  # type: ignore[union-attr]
    for home in ("~/birds.csv", "/birds.csv"):
        path = write(folder / "job.json", {**digits_job(), "data": {"source": "table", "file": home}})
        assert load_settings(path).data.file == home  # type: ignore[union-attr]


def test_paths_that_start_at_the_current_folder_still_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "birds.csv").touch()
    path = write(
        tmp_path / "configs" / "job.json", {**digits_job(), "data": {"source": "table", "file": "birds.csv"}}
    )
    monkeypatch.chdir(tmp_path)
    with pytest.warns(FutureWarning, match=r"data\.file: 'birds.csv' was found .*: write '\.\./birds\.csv'"):
        assert load_settings(path).data.file == "birds.csv"  # type: ignore[union-attr]
    (tmp_path / "configs" / "birds.csv").touch()
    assert load_settings(path).data.file == str(tmp_path / "configs" / "birds.csv")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "dotted.key=value"),
        ("schedule.epochs.x=3", "which has no keys"),
        ("model.heads.7.num_classes=3", "'7' is not an index of a list of 2"),
        ("schedule.epochs=[", "cannot be read as YAML"),
    ],
)
def test_wrong_overrides(override: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "job.json", digits_job())
    with pytest.raises(ConfigError, match=message):
        load_settings(path, [override])
