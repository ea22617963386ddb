"""What is said before training, and how long it will take."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from classy_vision.train import TrainConfig, display, train
from classy_vision.train.display import Clock, Display, describe_job, duration
from classy_vision.train.job import prepare
from classy_vision.train.model import build_initial
from tests.train.command import head, job

HEADS = head("colour"), head("tags", "block1"), head("light", "block1")
TASKS = {"colour": {}, "tags": {"kind": "multilabel"}, "light": {"kind": "regression"}}


def settings(table: Path, **sections: Any) -> TrainConfig:
    return TrainConfig.parse(job({"source": "table", "file": str(table)}, *HEADS, tasks=TASKS, **sections))


def lines(config: TrainConfig) -> list[str]:
    ready = prepare(config)
    return list(describe_job(ready, build_initial(ready.settings, ready.tasks), torch.device("cpu"), 2))


def test_what_will_be_trained_is_said(table: Path) -> None:
    said = lines(settings(table, schedule={"freeze_trunk": True}))
    assert said[0] == "18 images to train on, 6 held out; CPU in each of 2 processes"
    heads = 16 * 3 + 3 + 8 * 3 + 3 + 8 + 1
    assert said[1].startswith(f"anynet: {heads:,} parameters learn, ")
    assert not said[1].endswith(" 0 are frozen")
    assert said[2] == "head 'colour' at trunk_output: 3 classes: blue 5, lime 5, red 5; 3 without a label"
    assert said[3].startswith("head 'tags' at block1: 3 labels: cold ")
    assert said[4].startswith("head 'light' at block1: numbers, 0 to 0.875, ")


def test_many_classes_are_counted_together(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classy_vision.train.display.MOST", 2)
    assert "3 classes: 5 (blue) to 5 images each; 3 without" in lines(settings(table))[2]


def test_it_is_said_which_heads_go_on(table: Path, capsys: Any) -> None:
    train(settings(table, schedule={"epochs": 1}), table.parent / "run")
    assert "head 'colour' at trunk_output: 3 classes" in (first := capsys.readouterr().out)
    assert "training takes about " in first
    config = settings(table, weights=str(table.parent / "run"))
    assert lines(config)[-1] == f"weights of {table.parent / 'run'}: heads colour, tags, light continue"
    moved = config.model_copy(update={"model": {**config.model, "heads": [head(name) for name in TASKS]}})
    assert lines(moved)[-1].endswith(": heads colour continue, and tags, light are new")


def test_the_time_is_told_once_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])

    def ticks(steps: int, seconds: float) -> list[str | None]:
        clock = Clock(steps, epochs=3)
        said = []
        for _ in range(steps):
            now[0] += seconds
            said.append(clock.tick())
        return said

    assert ticks(6, 1.0)[3] == "training takes about 6.0 s per epoch, 18 s in all"
    assert ticks(3, 0.1) == [None, None, "training takes about 0.3 s per epoch, 0.9 s in all"]
    assert ticks(1, 5.0) == ["training takes about 5.0 s per epoch, 15 s in all"]
    console = Console(file=io.StringIO(), width=200)
    shown = Display({}, 2, console)
    for epoch in range(2):
        bar = shown.start(epoch, 2)
        for _ in range(2):
            shown.step(bar, list, 1.0)
    assert console.file.getvalue().count("training takes about") == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.34, "0.3 s"), (90, "90 s"), (150, "2.5 min"), (1800, "30 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
