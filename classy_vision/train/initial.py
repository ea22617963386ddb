"""The weights that a job starts from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from classy_vision.config import ConfigError, read_config
from classy_vision.data.config import DataConfig
from classy_vision.data.preprocessing import from_published
from classy_vision.models import MODELS, ClassyModel, load_weights
from classy_vision.models.published import with_published
from classy_vision.train.config import TrainConfig, WeightsConfig
from classy_vision.train.tasks import Task
from classy_vision.weights.catalogue import Preprocessing, is_published, published
from classy_vision.weights.report import Report
from classy_vision.weights.sources import find_file

AnyData = TypeVar("AnyData", bound=DataConfig)


def with_network(settings: TrainConfig) -> TrainConfig:
    """``settings`` with what published weights need: options of the network, and their preprocessing.

    Raises:
        ConfigError: no such weights, or they are another network's.
    """
    model = dict(settings.model)
    inside = model.pop("weights", None)
    if inside is not None and settings.weights is not None:
        raise ConfigError("weights stand twice, in the model and beside it: leave one out")
    weights = settings.weights if inside is None else inside
    if weights is True:
        weights = model.get("name")
    if isinstance(weights, Mapping):
        weights = WeightsConfig.parse(weights, "weights")
    if weights is not None and not isinstance(weights, (str, WeightsConfig)):
        raise ConfigError(f"weights = {weights!r}: the name of a file or of published weights is needed")
    source = weights.source if isinstance(weights, WeightsConfig) else weights
    if "name" in model:
        model = with_published({**model, "weights": source}, MODELS)[0]
    data = settings.data
    if source is not None:
        find_file(source)  # before any work is done
        whole = whole_path(source)
        weights = weights.model_copy(update={"source": whole}) if isinstance(weights, WeightsConfig) else whole
        if is_published(source):
            data = _with_preprocessing(data, published(source).preprocessing, model.get("in_channels"))
    return settings.model_copy(update={"model": model, "weights": weights, "data": data})


def _with_preprocessing(data: AnyData, theirs: Preprocessing, channels: int | None) -> AnyData:
    """``data`` with what the weights expect, where it does not say something else."""
    taken = from_published(theirs, data)
    if channels not in (None, len(theirs.mean)):
        taken = {name: value for name, value in taken.items() if name not in ("mean", "std")}
    given = {name: getattr(data, name) for name in data.model_fields_set}
    return type(data).parse({**given, **taken}, "data")


def what_is_published(given: TrainConfig, settings: TrainConfig) -> str:
    """What ``with_network`` took from published weights for the data, in words."""
    before, after = given.data, settings.data
    names = ("image_size", "resize", "interpolation", "eval_transform", "mean", "std")
    taken = [
        f"{name} = {list(value) if isinstance(value, tuple) else value}"
        for name in names
        if (value := getattr(after, name)) != getattr(before, name)
    ]
    source = getattr(settings.weights, "source", settings.weights)
    return f"preprocessing of {source}: {', '.join(taken)}" if taken else ""


def whole_path(source: str) -> str:
    """``source`` as a whole path, where it is one."""
    path = Path(os.path.expanduser(source))
    return str(path.absolute()) if path.exists() else source


def load_initial(model: ClassyModel, weights: str | WeightsConfig, tasks: Mapping[str, Task]) -> Report:
    """Loads the weights that a job starts from.

    Heads that have the id and shape of one in the file go on from there; the others stay as they
    are. A run names its classes: a head whose classes are others stays as it is, too.

    Args:
        model: as it was made.
        weights: what to load.
        tasks: by head.

    Raises:
        ConfigError: the weights cannot be read, or are not this trunk's.
    """
    options = {"source": weights} if isinstance(weights, str) else dict(weights)
    others = _of_other_classes(str(options["source"]), tasks)
    heads = {head.unique_id: head for entries in model.get_heads().values() for head in entries}
    before = {name: deepcopy(heads[name].state_dict()) for name in others}
    report = load_weights(model, **{"skip_heads": "unfit", **options})
    for name, state in before.items():
        heads[name].load_state_dict(state)
    return replace(report, kept=tuple(sorted({*report.kept, *before})))


def _of_other_classes(source: str, tasks: Mapping[str, Task]) -> list[str]:
    """The heads that have the id of one of a run, but another kind or other classes."""
    path = Path(os.path.expanduser(source))
    config = (path if path.is_dir() else path.parent) / "config.yaml"
    if not config.is_file():
        return []
    theirs: Any = read_config(config).get("tasks")
    found = []
    for name, task in tasks.items():
        there = theirs.get(name) if isinstance(theirs, Mapping) else None
        if isinstance(there, Mapping) and (there.get("kind"), tuple(there.get("classes") or ())) != (
            task.config.kind,
            tuple(task.classes),
        ):
            found.append(name)
    return found
