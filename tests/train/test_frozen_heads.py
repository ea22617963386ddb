"""A head that is added to a run: only it learns, and the others give what they gave, to the last bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from classy_vision.cli import main
from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel
from classy_vision.models.merge import merge_heads
from classy_vision.predict import Predictor
from classy_vision.train import TrainConfig, resume, train
from classy_vision.train import run as loop
from classy_vision.train.config import ScheduleConfig
from tests.train.command import head, job
from tests.train.conftest import make_table

# A head with a norm, whose statistics would move, and one of numbers, whose last layer is converted twice.
OLD = head("colour", "block1", conv_planes=8, dropout_rate=0.5), head("light")
TASKS: dict[str, Any] = {"colour": {}, "light": {"kind": "regression"}}
NEW = head("tags", "block1"), {"kind": "multilabel"}
IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
FROZEN = {"epochs": 2, "freeze": {"heads": "loaded"}}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("first")
    data = {"source": "table", "file": str(make_table(root))}
    train(TrainConfig.parse(job(data, *OLD, tasks=TASKS, schedule={"epochs": 1})), root / "run")
    return root / "run"


def settings(first: Path, *heads: dict[str, Any], **sections: Any) -> TrainConfig:
    tasks = {"tags": NEW[1], **TASKS}
    data = {"source": "table", "file": str(first.parent / "table.csv")}
    wanted = {h["unique_id"]: tasks[h["unique_id"]] for h in heads}
    sections = {"weights": str(first), "schedule": FROZEN, **sections}
    return TrainConfig.parse(job(data, *heads, tasks=wanted, **sections))


@pytest.fixture(scope="module")
def added(first: Path) -> Path:
    train(settings(first, *OLD, NEW[0]), first.parent / "added")
    return first.parent / "added"


@pytest.fixture(scope="module")
def alone(first: Path) -> Path:
    schedule = {"epochs": 1, "freeze": {"until": "trunk_output"}}
    train(settings(first, NEW[0], schedule=schedule), first.parent / "alone")
    return first.parent / "alone"


def outputs(folder: Path) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(ClassyModel.from_pretrained(folder).eval()(IMAGES))


def test_other_heads_give_the_same_numbers(first: Path, added: Path) -> None:
    before, after = outputs(first), outputs(added)
    assert after.keys() == {*before, "tags"}
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = load_file(first / "model.safetensors"), load_file(added / "model.safetensors")
    assert all(torch.equal(old[key], new[key]) for key in old)
    schedule = yaml.safe_load((added / "config.yaml").read_text())["schedule"]
    assert schedule["freeze"] == {"until": "trunk_output", "heads": ["colour", "light"]}


def test_the_new_head_learns(first: Path, added: Path) -> None:
    fresh = settings(first, *OLD, NEW[0], schedule={**FROZEN, "epochs": 1})
    train(fresh, first.parent / "shorter")
    key = "heads.block1.tags.fc.weight"
    shorter, longer = (load_file(first.parent / run / "model.safetensors")[key] for run in ("shorter", "added"))
    assert not torch.equal(shorter, longer)


def test_it_is_resumed_as_it_was(first: Path, added: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.Trainer, "run_epoch", failing_after(1))
    folder = first.parent / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(settings(first, *OLD, NEW[0]), folder)
    monkeypatch.undo()
    resume(folder)
    whole, again = (load_file(run / "model.safetensors") for run in (added, folder))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def failing_after(epochs: int) -> Any:
    original = loop.Trainer.run_epoch

    def run_epoch(self: loop.Trainer, epoch: int, progress: Any = None) -> Any:
        if epoch == epochs:
            raise KeyboardInterrupt
        return original(self, epoch, progress)

    return run_epoch


def test_heads_thaw_when_it_is_said(first: Path) -> None:
    schedule = {
        "epochs": 2,
        "freeze": {"heads": ["light"]},
        "unfreeze_at": {"epoch": 2, "until": "trunk_output"},
    }
    train(settings(first, *OLD, schedule=schedule), first.parent / "thawed")
    old, new = (load_file(run / "model.safetensors") for run in (first, first.parent / "thawed"))
    changed = {key for key in old if not torch.equal(old[key], new[key])}
    assert any(".light." in key for key in changed)
    assert all(key.startswith("heads.") for key in changed)
    kept = ScheduleConfig.parse({"freeze": {"heads": ["light", "a"]}, "unfreeze_at": [
        {"epoch": 2, "until": "trunk_output", "heads": ["light"]}]})  # fmt: skip
    assert kept.kept_heads == {"light"}
    assert ScheduleConfig.parse({"freeze": {"until": None, "heads": ["light"]}}).kept_heads == set()


@pytest.mark.parametrize(
    ("heads", "sections", "said"),
    [
        (OLD, {}, "nothing would learn"),
        ((NEW[0],), {}, "no head continues from weights"),
        ((*OLD, NEW[0]), {"weights": None}, "no head continues from weights"),
        ((*OLD, NEW[0]), {"schedule": {"freeze": {"heads": ["tags"]}}}, "'tags' is new, and would never learn"),
        ((*OLD, NEW[0]), {"schedule": {"freeze": {"heads": ["tag"]}}}, "did you mean 'tags'"),
    ],
)
def test_what_cannot_be_frozen(first: Path, heads: Any, sections: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        train(settings(first, *heads, **sections), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_freeze_that_says_nothing() -> None:
    with pytest.raises(ConfigError, match="freeze says nothing"):
        ScheduleConfig.parse({"freeze": {"until": None}})


# -- merging


def merge(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    monkeypatch.setattr("sys.argv", ["classy", "heads", "merge", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


def test_merged_heads_give_the_same_numbers(
    first: Path, alone: Path, added: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert merge(monkeypatch, first, alone, "-o", tmp_path / "both") == 0
    found = outputs(tmp_path / "both")
    assert found.keys() == {"colour", "light", "tags"}
    assert all(torch.equal(value, found[name]) for name, value in outputs(first).items())
    with torch.no_grad():
        single = ClassyModel.from_pretrained(alone).eval()(IMAGES)
    assert torch.equal(single, found["tags"])
    prediction = Predictor.load(tmp_path / "both")(first.parent / "1.png")
    assert set(prediction.answers) == {"colour", "light", "tags"}
    assert prediction["colour"].label in ("red", "lime", "blue")
    # Heads that several runs have alike are taken once.
    models = {str(run): ClassyModel.from_pretrained(run) for run in (first, added)}
    assert len([*merge_heads(models).state_dict()]) == len(models[str(added)].state_dict())


def test_what_cannot_be_merged(
    first: Path,
    alone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = ClassyModel.from_pretrained(first)
    state = {key: value.clone() for key, value in other.state_dict().items()}
    trunk = next(key for key in state if key.startswith("blocks.") and key.endswith("weight"))
    for key, said in [
        (trunk, f"{re.escape(trunk)} differs by up to 1. Heads can"),
        ("heads.block1.colour.fc.bias", "both have a head 'colour', and these differ"),
    ]:
        other.load_state_dict({**state, key: state[key] + 1.0})
        with pytest.raises(ConfigError, match=said):
            merge_heads({"a": ClassyModel.from_pretrained(first), "b": other})
    assert merge(monkeypatch, first, first, "-o", tmp_path / "x") == 2
    assert "two models or more" in capsys.readouterr().err
    assert merge(monkeypatch, first, alone, "-o", first) == 2
    assert "is a run folder" in capsys.readouterr().err
    assert merge(monkeypatch, first, alone, "-o", first.parent) == 2
    assert "exists: choose another --output" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_inputs_must_be_the_same(first: Path, alone: Path) -> None:
    models = {"a": ClassyModel.from_pretrained(first), "b": ClassyModel.from_pretrained(alone)}
    assert models["b"].preprocessing is not None
    models["b"].preprocessing = {**models["b"].preprocessing, "image_size": 16}
    with pytest.raises(ConfigError, match=r"cannot share a trunk: preprocessing.image_size is 8 and 16"):
        merge_heads(models)
