"""A job several times over, with other seeds or with other parts of the data held out, and the spread."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from classy_vision.config import ConfigError
from classy_vision.data.config import FolderConfig, TableConfig
from classy_vision.run_files import LOCK, METRICS
from classy_vision.train.config import TrainConfig
from classy_vision.train.job import prepare
from classy_vision.train.run import resume, train
from classy_vision.train.run_folder import RunFolder


@dataclass(frozen=True)
class Spread:
    """A metric in several runs.

    Attributes:
        mean, std: the standard deviation is that of a sample.
        least, most: the range.
    """

    mean: float
    std: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Measures two values or more."""
        if any(map(math.isnan, values)):
            return cls(math.nan, math.nan, math.nan, math.nan)
        return cls(fmean(values), stdev(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.std:.2g} ({self.least:.4g} to {self.most:.4g})"


def train_seeds(
    settings: TrainConfig, output: str | Path, seeds: int, force: bool = False
) -> dict[str, Spread]:
    """Trains a job with several seeds, from ``schedule.seed`` on, in folders ``seed0``, ``seed1``, ….

    Runs that are there are kept where they are finished, and resumed where they are not. What is held out
    does not depend on these seeds. The spread is also written as ``seeds.json``.

    Args:
        settings: the job.
        output: the folder of all the runs.
        seeds: how many, 2 or more.
        force: replace runs that are there.

    Returns:
        The spread of each metric of what was held out, in the epoch that each run gives.

    Raises:
        ConfigError: as for ``train``; or runs are there that were trained with other settings.
    """
    first = settings.schedule.seed
    wanted = {f"seed{seed}": with_seed(settings, seed) for seed in range(first, first + seeds)}
    return _train_all(wanted, Path(output), "seed", force)


def train_folds(
    settings: TrainConfig, output: str | Path, folds: int, force: bool = False
) -> dict[str, Spread]:
    """Trains a job once for each of several parts of its data, which that run holds out (cross-validation).

    The runs are in ``fold0``, ``fold1``, …, and the spread is also written as ``folds.json``.

    Args:
        settings: the job, of a folder or a table that does not say itself what is held out.
        output, force: as for ``train_seeds``.
        folds: how many, 2 or more.

    Returns:
        The spread of each metric over the folds.

    Raises:
        ConfigError: as for ``train_seeds``, or the data cannot be divided.
    """
    wanted = {f"fold{fold}": with_fold(settings, folds, fold) for fold in range(folds)}
    return _train_all(wanted, Path(output), "fold", force)


def _train_all(wanted: Mapping[str, TrainConfig], folder: Path, kind: str, force: bool) -> dict[str, Spread]:
    """Trains what is not there, and measures all of it."""
    _check(folder, len(wanted), kind)
    todo = [name for name, one in wanted.items() if force or not _is_done(RunFolder(folder / name), one)]
    for name in todo:
        run = RunFolder(folder / name)
        if run.is_run and not force:
            resume(run.path)
        else:
            train(wanted[name], run.path, force)
    finals = [json.loads((folder / name / METRICS).read_text(encoding="utf-8"))["final"] for name in wanted]
    spreads = dict(_measure(finals))
    found = {name: asdict(spread) for name, spread in spreads.items()}
    text = json.dumps({"runs": list(wanted), "metrics": found}, indent=2)
    RunFolder(folder).write(_name_summary(kind), text.encode())
    return spreads


def _name_summary(kind: str) -> str:
    return f"{kind}s.json"


def with_seed(settings: TrainConfig, seed: int) -> TrainConfig:
    """The job with another seed."""
    schedule = settings.schedule.model_copy(update={"seed": seed})
    return settings.model_copy(update={"schedule": schedule})


def with_fold(settings: TrainConfig, folds: int, fold: int) -> TrainConfig:
    """The job with another part of the data held out.

    Raises:
        ConfigError: the source has its own split.
    """
    if not isinstance(settings.data, (FolderConfig, TableConfig)):
        raise ConfigError(f"data.source = {settings.data.source!r} has its own split, and cannot be divided")
    data = settings.data.model_copy(update={"folds": folds, "fold": fold})
    return settings.model_copy(update={"data": data})


def _check(folder: Path, count: int, kind: str) -> None:
    if count < 2:
        raise ConfigError(f"{kind}s = {count}: a spread is of 2 runs or more")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"several {kind}s are trained one after the other by one process, and there are several"
        )
    others = [path for path in folder.iterdir() if not _is_ours(path, kind)] if folder.is_dir() else [folder]
    if folder.exists() and others:
        raise ConfigError(
            f"{str(folder)!r} exists and is not a folder of runs with several {kind}s: choose another --output"
        )


def _is_ours(path: Path, kind: str) -> bool:
    return path.name in (_name_summary(kind), LOCK) or (path.name.startswith(kind) and path.is_dir())


def _is_done(run: RunFolder, settings: TrainConfig) -> bool:
    """Whether a run is finished; what is there has to be of the same job.

    Raises:
        ConfigError: it is of another job.
    """
    if not run.is_run:
        return False
    theirs, ours = _describe(run.settings()), _describe(prepare(settings).settings)
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise ConfigError(
                f"{str(run.path)!r} was trained with {key} = {theirs.get(key)!r}, and not {ours.get(key)!r}: "
                f"choose another --output, or replace the runs by --force"
            )
    return run.finished


def _describe(settings: TrainConfig) -> dict[str, Any]:
    """What two runs of a job have alike, by dotted key: not the workers, nor what is found from the weights."""
    flat = dict(_flatten(settings.model_dump(mode="json")))
    known_later = {"schedule.workers", "schedule.cache_features", "schedule.freeze.heads"}
    is_later = settings.schedule.freeze is not None and bool(settings.schedule.freeze.heads)
    known_later |= {
        key for key in flat if is_later and key.startswith("tasks.") and key.endswith((".mean", ".std"))
    }
    return {key: value for key, value in flat.items() if key not in known_later}


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from _flatten(part, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _measure(finals: Sequence[Mapping[str, float | None]]) -> Iterator[tuple[str, Spread]]:
    for name in finals[0]:
        if name.startswith("val/"):
            values = [final.get(name) for final in finals]
            yield name, Spread.of([math.nan if value is None else value for value in values])
