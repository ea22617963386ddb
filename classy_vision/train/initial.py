"""The weights that a job starts from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from classy_vision.config import ConfigError
from classy_vision.models import MODELS
from classy_vision.models.published import with_published
from classy_vision.train.config import TrainConfig
from classy_vision.train.data_config import DataConfig
from classy_vision.train.preprocessing import from_published
from classy_vision.weights.catalogue import Preprocessing, is_published, published
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
    if weights is not None and not isinstance(weights, str):
        raise ConfigError(f"weights = {weights!r}: the name of a file or of published weights is needed")
    if "name" in model:
        model = with_published({**model, "weights": weights}, MODELS)[0]
    if weights is not None:
        find_file(weights)  # before any work is done
    data = settings.data
    if weights is not None and is_published(weights):
        data = _with_preprocessing(data, published(weights).preprocessing, model.get("in_channels"))
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
    return f"preprocessing of {settings.weights}: {', '.join(taken)}" if taken else ""


def whole_path(source: str) -> str:
    """``source`` as a whole path, where it is one."""
    path = Path(os.path.expanduser(source))
    return str(path.absolute()) if path.exists() else source
