"""What goes with a model into a folder: how it is used, and what its card says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from classy_vision.config import ConfigError, read_config
from classy_vision.hub.card import Facts
from classy_vision.run_files import METRICS, RUN_CONFIG
from classy_vision.trunk.trunk import Trunk
from classy_vision.trunk.use import Usable, Use, preprocessing_of, set_use, use_of, use_of_run
from classy_vision.weights.catalogue import Published, is_published, labels, published
from classy_vision.weights.report import Report


class Loaded(Usable, Protocol):
    """A model that knows which weights it was built with."""

    loaded: Report | None


def find_use(model: Loaded, run: str | Path | None = None) -> Use:
    """How ``model`` is used: what ``run`` says, else what it carries, else what its weights' publisher says.

    Raises:
        ConfigError: ``run`` is not a run folder, or is one of another model.
    """
    preprocessing, tasks = use_of(model)
    if run is not None:
        theirs = use_of_run(read_run(run))
        set_use(model, theirs)
        return Use(theirs.preprocessing or preprocessing, use_of(model).tasks)
    if (entry := published_of(model)) is not None:
        preprocessing = preprocessing or preprocessing_of(asdict(entry.preprocessing))
        tasks = {**_published_tasks(model, entry), **tasks}
    return Use(preprocessing, tasks)


def _published_tasks(model: Loaded, entry: Published) -> dict[str, dict[str, Any]]:
    """The meaning of the heads that have as many outputs as the publisher has names."""
    names = labels(entry.labels) if entry.labels and entry.outputs == "classes" else ()
    heads = [head for entries in model.get_heads().values() for head in entries]
    task = {"kind": "classification", "classes": list(names)}
    return {head.unique_id: task for head in heads if names and head.num_classes == len(names)}


def published_of(model: Loaded) -> Published | None:
    """The published weights that the model has, if none of its heads is new."""
    report = model.loaded
    if report is None or report.kept or not is_published(report.source):
        return None
    return published(report.source)


def read_run(run: str | Path | None) -> dict[str, Any]:
    """The config of a run folder; empty if there is no run.

    Raises:
        ConfigError: it is not a run folder.
    """
    if run is None:
        return {}
    if not (Path(run) / RUN_CONFIG).is_file():
        raise ConfigError(f"{str(run)!r} is not a run folder: it has no {RUN_CONFIG}")
    return read_config(Path(run) / RUN_CONFIG)


def read_facts(
    model: Trunk,
    config: Mapping[str, Any],
    name: str,
    license: str | None,
    weights: Published | None,
    run: str | Path | None,
) -> Facts:
    """What the card of a model says.

    Args:
        model: whose parameters and multiply-adds are counted.
        config: of the folder.
        name: what ``from_pretrained`` takes to load it.
        license: of the weights; by default that of published ones.
        weights: the published ones that it has, if any.
        run: the run folder that it comes from, if any.

    Raises:
        ConfigError: ``run`` is not a run folder.
    """
    from classy_vision.cost.count import count  # most programs write no card

    try:
        macs = count(model).macs
    except ConfigError:  # a model that does not take an input of its usual shape
        macs = None
    return Facts(
        name=name,
        config=config,
        input_shape=model.input_shape,
        params=sum(parameter.numel() for parameter in model.parameters()),
        macs=macs,
        license=license or (weights.license if weights else None),
        published=weights,
        settings=read_run(run),
        metrics=_read_metrics(run),
    )


def _read_metrics(run: str | Path | None) -> dict[str, Any]:
    """Those of the last epoch of a run; empty if they cannot be read."""
    try:
        found = json.loads(Path(run, METRICS).read_text(encoding="utf-8"))["final"] if run else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
