"""How a model is used, as far as its run, its folder or the publisher of its weights says."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, read_config
from classy_vision.models.classy_model import ClassyModel
from classy_vision.run_files import RUN_CONFIG
from classy_vision.trunk.use import Use, preprocessing_of, set_use, use_of, use_of_run
from classy_vision.weights.catalogue import Published, is_published, labels, published


def find_use(model: ClassyModel, run: str | Path | None = None) -> Use:
    """How ``model`` is used: what ``run`` says, else what it carries, else what its weights' publisher says.

    Raises:
        ConfigError: ``run`` is no run folder, or is one of another model.
    """
    preprocessing, tasks = use_of(model)
    if run is not None:
        theirs = use_of_run(run_settings(run))
        set_use(model, theirs)
        return Use(theirs.preprocessing or preprocessing, use_of(model).tasks)
    if (entry := published_of(model)) is not None:
        preprocessing = preprocessing or preprocessing_of(asdict(entry.preprocessing))
        tasks = {**_published_tasks(model, entry), **tasks}
    return Use(preprocessing, tasks)


def _published_tasks(model: ClassyModel, entry: Published) -> dict[str, dict[str, Any]]:
    """What the heads say that have as many outputs as the publisher has names."""
    names = labels(entry.labels) if entry.labels and entry.outputs == "classes" else ()
    heads = [head for entries in model.get_heads().values() for head in entries]
    task = {"kind": "classification", "classes": list(names)}
    return {head.unique_id: task for head in heads if names and head.num_classes == len(names)}


def published_of(model: ClassyModel) -> Published | None:
    """The published weights that the model is of, as long as all heads are theirs."""
    report = model.loaded
    if report is None or report.kept or not is_published(report.source):
        return None
    return published(report.source)


def run_settings(run: str | Path | None) -> dict[str, Any]:
    """The config of a run folder; empty where there is no run.

    Raises:
        ConfigError: it is no run folder.
    """
    if run is None:
        return {}
    if not (Path(run) / RUN_CONFIG).is_file():
        raise ConfigError(f"{str(run)!r} is no run folder: it has no {RUN_CONFIG}")
    return read_config(Path(run) / RUN_CONFIG)
