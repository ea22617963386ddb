"""What it takes to use a trained model: how a file becomes its input, and what its outputs mean.

Both are plain JSON values. ``preprocessing`` has keys of ``data`` of a training config, and stands on the
model. A task, ``{"kind": "classification", "classes": ["cat", "dog"]}``, stands on its head, so that a head
that is replaced takes it along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from classy_vision.config import ConfigError, unknown
from classy_vision.heads.classy_head import ClassyHead

SEEN = (
    *("image_size", "resize", "interpolation", "eval_transform", "decode", "max_pixels", "value_range"),
    *("mean", "std", "clip", "crops"),
)
"""Keys of ``data`` that say what a model sees of a file in evaluation."""
NUMBERS = ("regression", "dense_regression")
"""Kinds of tasks without classes."""
KINDS = ("classification", "multilabel", "segmentation", *NUMBERS)


class Use(NamedTuple):
    """What goes with a model.

    Attributes:
        preprocessing: how a file becomes its input; None where nobody said.
        tasks: what outputs mean, by head, of heads of which somebody said it.
    """

    preprocessing: dict[str, Any] | None
    tasks: dict[str, dict[str, Any]]

    def as_config(self) -> dict[str, Any]:
        """The keys of a model config that say this."""
        found = {"preprocessing": self.preprocessing, "tasks": self.tasks}
        return {key: value for key, value in found.items() if value}


class Usable(Protocol):
    """A model as far as it is needed here."""

    preprocessing: Mapping[str, Any] | None

    def get_heads(self) -> Mapping[str, Iterable[ClassyHead]]:
        """Heads by block."""


def use_of_run(settings: Mapping[str, Any]) -> Use:
    """What the config of a run says; it may be of an earlier version."""
    tasks = {}
    for head, task in (settings.get("tasks") or {}).items():
        kind, classes = (task or {}).get("kind", KINDS[0]), (task or {}).get("classes")
        if kind in NUMBERS:
            tasks[str(head)] = {"kind": kind}
        elif classes:
            tasks[str(head)] = {"kind": kind, "classes": list(map(str, classes))}
    return Use(preprocessing_of(settings.get("data") or {}) or None, tasks)


def preprocessing_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """What ``data`` of a training config says of evaluation."""
    seen = {**data, "image_size": data.get("eval_size") or data.get("image_size")}
    crops = seen.pop("crops", 1)
    if clip := seen.get("clip"):  # which says it itself, as in all files that there are
        seen["clip"] = {"crops": crops, **clip}
    elif crops != 1:
        seen["crops"] = crops
    return {key: seen[key] for key in SEEN if seen.get(key) is not None}


def use_of(model: Usable) -> Use:
    """What ``set_use`` was told of a model and its heads."""
    tasks = {head.unique_id: dict(head.task) for head in _heads(model).values() if head.task}
    return Use(dict(model.preprocessing) if model.preprocessing else None, tasks)


def take_use(config: dict[str, Any]) -> Use:
    """Takes ``preprocessing`` and ``tasks`` out of a model config.

    Raises:
        ConfigError: one of them is not a mapping.
    """
    preprocessing, tasks = config.pop("preprocessing", None), config.pop("tasks", None) or {}
    for key, value in (("preprocessing", preprocessing or {}), ("tasks", tasks)):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key} = {value!r}: a mapping is needed")
    return Use(preprocessing, {str(head): task for head, task in tasks.items()})


def set_use(model: Usable, use: Use) -> None:
    """Keeps ``use`` with a model and its heads.

    Raises:
        ConfigError: a task is of no head of the model, or does not fit it.
    """
    heads = _heads(model)
    for name, task in use.tasks.items():
        if name not in heads:
            raise unknown("head", name, heads, "tasks")
        _check_task(name, task, heads[name].num_classes)
        heads[name].task = dict(task)
    if use.preprocessing is not None:
        model.preprocessing = dict(use.preprocessing)


def _heads(model: Usable) -> dict[str, ClassyHead]:
    return {head.unique_id: head for entries in model.get_heads().values() for head in entries}


def _check_task(name: str, task: Any, count: int | None) -> None:
    if not isinstance(task, Mapping):
        raise ConfigError(f"tasks.{name} = {task!r}: a mapping of 'kind' and 'classes' is needed")
    for key in task:
        if key not in ("kind", "classes"):
            raise unknown("key", key, ("kind", "classes"), f"tasks.{name}")
    if task.get("kind") not in KINDS:
        raise unknown("kind", task.get("kind"), KINDS, f"tasks.{name}")
    classes = task.get("classes") or []
    if not isinstance(classes, (list, tuple)) or not all(isinstance(label, str) for label in classes):
        raise ConfigError(f"tasks.{name}.classes is a list of names, not {classes!r}")
    outputs = 1 if task["kind"] in NUMBERS else len(classes)
    if count is not None and outputs != count:
        raise ConfigError(f"tasks.{name} has {outputs} classes, and head {name!r} has num_classes = {count}")
