"""What a run starts from: a trunk, and the heads that fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel
from classy_vision.train import TrainConfig, load_settings, train
from classy_vision.train.config import dump_settings
from classy_vision.train.job import prepare
from classy_vision.train.model import build_initial, load_initial
from tests.train.command import head, job
from tests.train.conftest import make_table

HEADS = head("colour"), head("tags", "block1")
TASKS: dict[str, Any] = {"colour": {}, "tags": {"kind": "multilabel"}}


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of heads on a trunk that was frozen."""
    root = tmp_path_factory.mktemp("probe")
    config = job({"source": "table", "file": str(make_table(root))}, *HEADS, tasks=TASKS)
    config["schedule"] |= {"epochs": 1, "freeze_trunk": True}
    train(TrainConfig.parse(config), root / "run")
    return root / "run"


def start(probe: Path, *heads: dict[str, Any], **sections: Any) -> ClassyModel:
    data = {"source": "table", "file": str(probe.parent / "table.csv")}
    config = job(data, *heads, schedule={"seed": 5}, **sections)
    ready = prepare(TrainConfig.parse(config))
    return build_initial(ready.settings, ready.tasks)


def kept(model: ClassyModel, probe: Path) -> set[str]:
    """The heads that are those of the probe, in a model whose trunk is its."""
    theirs = load_file(probe / "model.safetensors")
    same = {key: torch.equal(value, theirs[key]) for key, value in model.state_dict().items() if key in theirs}
    assert all(equal for key, equal in same.items() if not key.startswith("heads."))
    return {key.split(".")[2] for key, equal in same.items() if key.startswith("heads.") and equal}


@pytest.mark.parametrize("inside", [False, True])
def test_heads_of_the_same_id_and_shape_go_on(inside: bool, probe: Path) -> None:
    sections = {"tasks": {**TASKS, "new": {"target": "colour"}}, "weights": str(probe)}
    if inside:
        data = {"source": "table", "file": str(probe.parent / "table.csv")}
        config = job(data, *HEADS, head("new"), tasks=sections["tasks"])
        config["model"]["weights"] = str(probe)
        ready = prepare(TrainConfig.parse(config))
        model = build_initial(ready.settings, ready.tasks)
    else:
        model = start(probe, *HEADS, head("new"), **sections)
    assert kept(model, probe) == {"colour", "tags"}
    assert model.loaded is not None
    assert model.loaded.kept == ("new",)


def test_a_head_on_another_block_is_new(probe: Path) -> None:
    model = start(probe, head("colour", "block1"), HEADS[1], tasks=TASKS, weights=str(probe))
    assert kept(model, probe) == {"tags"}


def test_a_head_of_other_classes_is_new(probe: Path) -> None:
    tasks = {**TASKS, "colour": {"classes": ["red", "lime", "blue"]}}  # in another order
    model = start(probe, *HEADS, tasks=tasks, weights=str(probe / "model.safetensors"))
    assert kept(model, probe) == {"tags"}
    assert model.loaded is not None
    assert model.loaded.kept == ("colour",)


@pytest.mark.parametrize(("skip", "expected"), [(True, set()), (["tags"], {"colour"})])
def test_heads_can_be_made_anew(skip: Any, expected: set[str], probe: Path) -> None:
    weights = {"source": str(probe), "skip_heads": skip}
    assert kept(start(probe, *HEADS, tasks=TASKS, weights=weights), probe) == expected


def test_options_of_weights_are_written_down(probe: Path, tmp_path: Path) -> None:
    data = {"source": "table", "file": str(probe.parent / "table.csv")}
    weights = {"source": str(probe), "skip_heads": ["tags"]}
    settings = prepare(TrainConfig.parse(job(data, *HEADS, tasks=TASKS, weights=weights))).settings
    (tmp_path / "config.yaml").write_text(dump_settings(settings))
    assert load_settings(tmp_path / "config.yaml").weights == settings.weights
    with pytest.raises(ConfigError, match="weights: unknown key 'skip_head'; did you mean 'skip_heads'"):
        TrainConfig.parse({**job(data, *HEADS), "weights": {"source": "x", "skip_head": True}})
    with pytest.raises(ConfigError, match="skip_heads: unknown head 'tag'; did you mean 'tags'"):
        start(probe, *HEADS, tasks=TASKS, weights={**weights, "skip_heads": ["tag"]})


def test_what_is_loaded_is_reported(probe: Path) -> None:
    ready = prepare(
        TrainConfig.parse(
            job({"source": "table", "file": str(probe.parent / "table.csv")}, *HEADS, tasks=TASKS)
        )
    )
    report = load_initial(build_initial(ready.settings, ready.tasks), str(probe), ready.tasks)
    assert report.kept == ()
    assert "heads.block1.tags.fc.weight" in report.loaded
