"""Predictions for files by an exported model, as by the run that it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.data.batches import EpochBatches, Samples, make_loader
from classy_vision.data.config import DataConfig
from classy_vision.export.compare import Batched
from classy_vision.export.exported_model import ExportedModel, load_exported
from classy_vision.export.formats import Int8, Run
from classy_vision.predict.array_predictor import input_of
from classy_vision.train.config import TaskConfig
from classy_vision.train.job import Job
from classy_vision.train.tasks import KINDS, Task, run_views
from classy_vision.trunk.use import preprocessing_of

CALIBRATION = 256
"""Samples of the training split from which ranges are taken."""
SCORES = {
    "classification": "accuracy",
    "multilabel": "mAP",
    "regression": "r2",
    "segmentation": "mIoU",
    "dense_regression": "delta1",
}
"""By kind of task the metric that int8 must keep; 1 is 100 points."""


def read_exported(path: str | Path, *, trust: bool = False) -> tuple[Batched, DataConfig, dict[str, Task]]:
    """An exported model, what it sees of a file, and its tasks by head: what a ``Predictor`` is made of.

    Raises:
        ConfigError: it cannot be loaded, or does not say how images become its input, or what its
            outputs mean.
    """
    exported = load_exported(path, trust=trust)
    data = input_of(exported)
    tasks = {name: _task(exported, name) for name in exported.heads}
    shape = data.input_shape(len(data.mean or ()), training=False)
    return Batched(exported, shape), data, tasks


def _task(exported: ExportedModel, name: str) -> Task:
    head = exported.metadata.heads[name]
    assert head.kind is not None
    return KINDS[head.kind](name, TaskConfig(kind=head.kind, classes=head.classes or None))


def calibrate(job: Job, max_loss: float) -> Int8:
    """How to quantise the model of a run: by its training split, and measured on what was held out."""
    return Int8(list(_inputs(job)), lambda run: _measure(run, job), max_loss)


def _inputs(job: Job) -> Iterator[Tensor]:
    """Samples from all over the training split, as in evaluation.

    Raises:
        ConfigError: a file cannot be read.
    """
    rows = job.records.rows(held_out=False)
    samples = _read(job)
    for row in rows[:: max(1, len(rows) // CALIBRATION)][:CALIBRATION]:
        sample = samples[0, row]
        if not sample.error:
            yield sample.views
        elif job.settings.data.on_bad_image == "error":
            raise ConfigError(f"cannot calibrate with {sample.error}")


def _read(job: Job) -> Samples:
    return job.samples()


@torch.no_grad()
def _measure(run: Run, job: Job) -> dict[str, float]:
    """Scores in points on the held-out split, by head."""
    metrics = {head: task.metrics()[SCORES[task.config.kind]] for head, task in job.tasks.items()}
    size = max(1, job.settings.schedule.batch_size // job.settings.data.views)
    order = EpochBatches(job.records.rows(held_out=True), size, None)
    for batch in make_loader(_read(job), order, workers=job.settings.schedule.workers):
        if not len(batch.rows):
            continue
        for head, output in run_views(run, batch.images, job.tasks).items():
            task, targets = job.tasks[head], job.targets_of(head, batch)
            valid = task.valid(targets)
            if valid.any():
                metrics[head].update(*task.comparable(output[valid], targets[valid]))
    return {head: 100 * float(metric.compute()) for head, metric in metrics.items()}


def preprocessing(data: DataConfig) -> dict[str, Any]:
    """What an exported says of how images become its input."""
    return preprocessing_of(data.model_dump(mode="json", exclude_none=True))
