"""Where losses and metrics are logged beside the run folder, by accelerate's trackers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, TensorBoardTracker, get_available_trackers
from accelerate.utils import LoggerType

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.run_files import TENSORBOARD
from classy_vision.train.config import TrainConfig, dump_settings

PROJECT = "classy-vision"
"""The project, or experiment, to which runs belong; each is called as its folder."""
RUN_NAMES = {
    **{"wandb": "name", "trackio": "name", "mlflow": "run_name"},
    **{"swanlab": "experiment_name", "clearml": "task_name"},
}
"""What trackers call the name of a run."""


def check_trackers(names: Iterable[str]) -> None:
    """Raises where a tracker is not known or not installed.

    Raises:
        ConfigError: says what to install.
    """
    there = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise unknown("tracker", name, LOGGER_TYPE_TO_CLASS, "trackers")
        if name not in there and name in LoggerType.list():  # registered ones are there
            package = "'classy-vision-models[tensorboard]'" if name == TENSORBOARD else name
            raise ConfigError(f"trackers: {name} needs: pip install {package}")


def start_trackers(accelerator: Accelerator, settings: TrainConfig, folder: Path, done: int) -> None:
    """Begins to log, with the settings first.

    Args:
        accelerator: with the names of the trackers.
        settings: of the run.
        folder: of the run.
        done: epochs that were logged before; what TensorBoard has of later ones is removed.

    Raises:
        ConfigError: a tracker cannot start.
    """
    accelerator.log_with = [
        TensorBoardTracker(TENSORBOARD, folder, purge_step=done + 1) if str(name) == TENSORBOARD else name
        for name in accelerator.log_with
    ]
    names = {name: {option: folder.absolute().name} for name, option in RUN_NAMES.items()}
    try:
        accelerator.init_trackers(PROJECT, init_kwargs=names)
        for tracker in accelerator.trackers:
            if tracker.name != TENSORBOARD:
                tracker.store_init_configuration(dict(flatten(settings.model_dump(mode="json"))))
            elif not done:
                tracker.log({"config": indent(dump_settings(settings), "    ")}, step=0)  # code in Markdown
    except Exception as error:  # each service has errors of its own
        raise ConfigError(f"trackers: {', '.join(settings.all_trackers)}: {first_line(error)}") from error


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | float]]:
    """Settings by their dotted keys, with lists as JSON and without what is null."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, (list, tuple)) else value
