"""Trackers: TensorBoard for itself, and one of a test for all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker

from classy_vision.config import ConfigError
from classy_vision.train import TrainConfig, check, resume, train
from classy_vision.train.trackers import flatten
from tests.train.command import head, job


class Recorder(GeneralTracker):
    """Keeps what it is told."""

    name = "recorder"
    requires_logging_directory = False
    tracker = None
    told: list[Any] = []

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.told.append(("project", run_name, options))

    def start(self) -> None:
        self.told.append("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.told.append((step, values))

    def finish(self) -> None:
        self.told.append("end")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(Recorder, "told", [])
    for name in ("recorder", "wandb"):
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, Recorder)
    return Recorder.told


def settings(table: Path, **sections: Any) -> TrainConfig:
    return TrainConfig.parse(job({"source": "table", "file": str(table)}, head("colour"), **sections))


def test_a_tracker_is_told_the_settings_and_every_epoch(
    table: Path, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [*tracking.get_available_trackers(), tracking.LoggerType.WANDB]
    monkeypatch.setattr("classy_vision.train.trackers.get_available_trackers", lambda: there)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: there)
    config = settings(table, trackers=["wandb", "recorder", "tensorboard"], tensorboard=True)
    check(config)
    assert not told
    row = train(config, table.parent / "first")
    assert told[:3] == [
        ("project", "classy-vision", {"name": "first"}),
        ("project", "classy-vision", {}),
        "start",
    ]
    values = told[4]
    assert values["schedule.epochs"] == 2
    assert values["model.heads"].startswith('[{"name": "fully_connected"')
    assert {type(value) for value in values.values()} <= {str, int, float, bool}
    assert told[-3:] == [(2, row), "end", "end"]
    assert (table.parent / "first" / "tensorboard").is_dir()


def test_tensorboard_keeps_the_settings_and_goes_on(table: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = table.parent / "run"
    train(settings(table, trackers="tensorboard", schedule={"epochs": 2}), run)
    resume(run, ["schedule.epochs=3"])
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val/colour/accuracy")] == [1, 2, 3]
    (text,) = events.Tensors("config/text_summary")
    assert b"    schedule:" in text.tensor_proto.string_val[0]


def test_what_is_not_there_is_explained(table: Path, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run = table.parent / "run"
    monkeypatch.setattr("classy_vision.train.trackers.get_available_trackers", list)
    for name, message in {
        "wanbd": r"trackers: unknown tracker 'wanbd'; did you mean 'wandb'",
        "mlflow": r"trackers: mlflow needs: pip install mlflow",
        "tensorboard": r"trackers: tensorboard needs: pip install 'classy-vision-models\[tensorboard\]'",
    }.items():
        with pytest.raises(ConfigError, match=message):
            train(settings(table, trackers=["recorder", name]), run)
    with pytest.raises(ConfigError, match="tensorboard needs"):
        train(settings(table, tensorboard=True), run)
    monkeypatch.setattr(Recorder, "start", fail)
    with pytest.raises(ConfigError, match="trackers: recorder: no key"):
        train(settings(table, trackers=["recorder"]), run)
    assert not run.exists()


def fail(_: Any) -> None:
    raise RuntimeError("no key\nlog in first")


def test_settings_by_their_keys() -> None:
    assert dict(flatten({"a": {"b": 1, "c": None}, "d": (1, {"e": 2})})) == {"a.b": 1, "d": '[1, {"e": 2}]'}
