"""Recipes: each is whole, what a config says goes before it, and a config without a schedule gets one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from classy_vision.config import ConfigError
from classy_vision.train import load_settings
from classy_vision.train.recipes import FOLDER, apply_recipe, choose_recipe, list_recipes, take_recipe
from classy_vision.train.run_folder import RunFolder
from tests.train.command import SMALL_TRUNK, classy, head, write

CONFIG = {
    "model": {"name": "resnet18", "heads": [head("flower")]},
    "data": {"source": "folder", "root": "flowers"},
}


def load(tmp_path: Path, *overrides: str, **sections: Any) -> Any:
    return load_settings(write(tmp_path / "config.json", {**CONFIG, **sections}), overrides)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_a_config_with_a_word_on_what_it_is_for(name: str, tmp_path: Path) -> None:
    settings = load(tmp_path, recipe=name)
    assert settings.recipe == name
    assert settings.schedule.model_fields_set >= {"epochs", "batch_size", "optimizer", "learning_rate"}
    assert (FOLDER / f"{name}.yaml").read_text().startswith("# ")


def test_what_a_config_says_goes_before_the_recipe(tmp_path: Path) -> None:
    said = {"schedule": {"learning_rate": 0.5}, "tasks": {"flower": {"label_smoothing": 0.3}}}
    said |= {"data": {**CONFIG["data"], "augment": "none"}}
    settings = load(tmp_path, "schedule.epochs=10", recipe="fine-tune-convolutions", **said)
    assert settings.schedule.learning_rate == 0.5
    assert settings.schedule.layer_decay == 0.85
    assert settings.schedule.epochs == 10
    assert settings.schedule.warmup_epochs == 1.0  # the same tenth of them
    assert settings.tasks["flower"].label_smoothing == 0.3
    assert settings.data.augment == "none"


def test_tasks_are_filled_by_their_kind() -> None:
    heads = [head("a"), head("b")]
    config = {
        "recipe": "segmentation",
        "model": {"heads": heads},
        "tasks": {"a": {"kind": "segmentation"}, "b": None},
    }
    filled = apply_recipe(config)["tasks"]
    assert filled == {"a": {"loss": "cross_entropy+dice", "kind": "segmentation"}, "b": {}}
    del config["tasks"]
    config["recipe"] = "fine-tune-transformer"
    assert apply_recipe(config)["tasks"] == {name: {"label_smoothing": 0.1} for name in "ab"}


@pytest.mark.parametrize(
    ("model", "weights", "recipe"),
    [
        ({"name": "resnet18"}, None, "from-scratch"),
        ({"name": "resnet18"}, "torchvision/resnet18.IMAGENET1K_V1", "fine-tune-convolutions"),
        ({"name": "vit_b_16", "weights": True}, None, "fine-tune-transformer"),
        ({"name": "timm/vit_tiny_patch16_224.augreg_in21k", "weights": True}, None, "fine-tune-transformer"),
        ({"name": "timm/resnet50.a1_in1k"}, "runs/first", "fine-tune-convolutions"),
        ({"name": "resnext3d"}, None, "kinetics"),
        ({"name": "unheard_of"}, None, None),
        ({}, None, None),
    ],
)
def test_a_config_without_a_schedule(model: dict[str, Any], weights: str | None, recipe: str | None) -> None:
    assert choose_recipe({"model": model, "weights": weights}) == recipe


def test_the_recipe_goes_with_the_task_and_the_images() -> None:
    config = {"model": {"name": "resnet18"}, "data": {"source": "folder"}}
    assert take_recipe(config)["recipe"] == "from-scratch"
    assert "augment" not in take_recipe(config)["data"]
    assert take_recipe({**config, "tasks": {"mask": {"kind": "segmentation"}}})["recipe"] == "segmentation"
    for changed in (
        {**config, "data": {"source": "folder", "value_range": [0, 4095]}},
        {**config, "model": {"name": "resnet18", "in_channels": 5}},
    ):
        assert take_recipe(changed)["data"]["augment"] == {"flip": 0.5, "crop": [0.2, 1.0], "erase": 0.1}
    given = {"source": "folder", "value_range": [0, 4095], "augment": {"flip": 0.1}}
    assert take_recipe({**config, "data": given})["data"] == given
    assert take_recipe({"model": {"name": "unheard_of"}}) == {"model": {"name": "unheard_of"}}


def test_a_schedule_of_ones_own_is_no_recipe(tmp_path: Path) -> None:
    assert load(tmp_path, schedule={"epochs": 3}).recipe is None
    assert load(tmp_path, "schedule.epochs=3").recipe == "from-scratch"
    assert load(tmp_path, "recipe=null", "schedule.epochs=3").recipe is None


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown recipe 'few-label'; did you mean 'few-labels'"):
        load(tmp_path, recipe="few-label")


def test_a_run_says_its_recipe_and_keeps_what_it_says(tmp_path: Path) -> None:
    config = {
        "model": {**SMALL_TRUNK, "heads": [head("digit")]},
        "data": {"source": "digits", "image_size": 8},
        "recipe": "few-labels",
        "schedule": {"epochs": 1, "batch_size": 512, "workers": 0},
    }
    done = classy("train", write(tmp_path / "job.json", config), "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "the recipe is few-labels" in done.stdout
    settings = RunFolder(tmp_path / "run").settings()
    assert settings.schedule.ema == 0.98
    assert json.loads(json.dumps(settings.model_dump(mode="json")))["data"]["augment"]["magnitude"] == 5
