"""The weights that a job starts from."""

from __future__ import annotations

import os
from pathlib import Path

from classy_vision.config import ConfigError
from classy_vision.models import MODELS
from classy_vision.models.published import with_published
from classy_vision.train.config import TrainConfig
from classy_vision.weights.catalogue import is_published, published
from classy_vision.weights.sources import find_file


def with_network(settings: TrainConfig) -> TrainConfig:
    """``settings`` with what published weights need: options of the network, and their statistics.

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
    if weights is not None and is_published(weights) and data.mean is None and data.std is None:
        theirs = published(weights).preprocessing
        if len(theirs.mean) == model.get("in_channels", len(theirs.mean)):
            data = data.model_copy(update={"mean": theirs.mean, "std": theirs.std})
    return settings.model_copy(update={"model": model, "weights": weights, "data": data})


def whole_path(source: str) -> str:
    """``source`` as a whole path, where it is one."""
    path = Path(os.path.expanduser(source))
    return str(path.absolute()) if path.exists() else source
