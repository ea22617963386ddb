"""Recipes: how to train for a purpose, as files that a config names and may change.

A recipe has sections ``data`` and ``schedule`` as a config has them, and ``tasks`` by the kind of a task. What
a config says itself goes before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from classy_vision.config import read_config, unknown
from classy_vision.presets import families
from classy_vision.weights.catalogue import is_published, published

FOLDER = Path(__file__).parent
TRANSFORMERS = ("vision_transformer",)
CLIPS = ("resnext3d",)
DENSE = ("segmentation", "dense_regression")
"""The kinds of tasks with a label for each pixel."""
OF_PICTURES = (
    "policy",
    "operations",
    "magnitude",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "grey",
    "blur",
)
"""Keys of augmentation for images of 8 bits in grey or colour."""


@cache
def list_recipes() -> tuple[str, ...]:
    """Their names."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def read_recipe(name: str) -> dict[str, Any]:
    """The sections of a recipe.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in list_recipes():
        raise unknown("recipe", name, list_recipes())
    return read_config(FOLDER / f"{name}.yaml")


def choose_recipe(config: Mapping[str, Any]) -> str | None:
    """The recipe for a config that has no schedule: by its tasks, the family of its trunk, and its weights."""
    model = config.get("model")
    if not isinstance(model, Mapping) or not isinstance(name := model.get("name"), str):
        return None
    if is_published(name):
        name = str(published(name).config["name"])
    family = next((family for family, presets in families().items() if name == family or name in presets), None)
    if family is None:
        return None
    if any(isinstance(task, Mapping) and task.get("kind") in DENSE for task in _name_tasks(config).values()):
        return "segmentation"
    if not (config.get("weights") or model.get("weights")):
        return "kinetics" if family in CLIPS else "from-scratch"
    return "fine-tune-transformer" if family in TRANSFORMERS else "fine-tune-convolutions"


def take_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the recipe for it, as far as its images go with that; as it is if there is none."""
    taken, name = dict(config), choose_recipe(config)
    if name is None:
        return taken
    taken["recipe"] = name
    model, data = config["model"], config.get("data")
    is_of_pictures = model.get("in_channels") in (None, 1, 3)
    if isinstance(data, Mapping) and (data.get("value_range") is not None or not is_of_pictures):
        augment = read_recipe(name).get("data", {}).get("augment", {})
        rest = {key: value for key, value in augment.items() if key not in OF_PICTURES}
        taken["data"] = {"augment": rest, **data}
    return taken


def apply_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with what its ``recipe`` says filled in.

    Raises:
        ConfigError: there is no such recipe.
    """
    name = config.get("recipe")
    if name is None:
        return dict(config)
    recipe = read_recipe(str(name))
    filled = dict(config)
    for section in ("data", "schedule"):
        given = config.get(section, {})
        if isinstance(given, Mapping):
            filled[section] = {**_fit_warmup(recipe.get(section, {}), given), **given}
    if by_kind := recipe.get("tasks"):
        filled["tasks"] = {head: _fill_task(task, by_kind) for head, task in _name_tasks(config).items()}
    return filled


def _fit_warmup(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule whose warm-up is the same part of other epochs."""
    epochs, warmup = given.get("epochs"), recipe.get("warmup_epochs")
    if not isinstance(epochs, (int, float)) or warmup is None:
        return dict(recipe)
    return {**recipe, "warmup_epochs": warmup * epochs / recipe["epochs"]}


def _name_tasks(config: Mapping[str, Any]) -> dict[str, Any]:
    """The tasks of a config by head; of its heads, where it gives none."""
    tasks, model = config.get("tasks"), config.get("model")
    if isinstance(tasks, Mapping):
        return dict(tasks)
    heads = model.get("heads") if isinstance(model, Mapping) else None
    named = [head.get("unique_id") for head in heads or () if isinstance(head, Mapping)]
    return {str(head): {} for head in named if head}


def _fill_task(task: Any, by_kind: Mapping[str, Any]) -> Any:
    if task is not None and not isinstance(task, Mapping):
        return task  # which is an error, and not ours to tell
    given = task or {}
    return {**by_kind.get(str(given.get("kind", "classification")), {}), **given}
