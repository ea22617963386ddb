"""Embeds a collection: one process, those of torchrun, or actors of Ray share out the same shards."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from classy_vision.config import ConfigError
from classy_vision.embed.folder import COMPUTED, Folder
from classy_vision.embed.lance_copy import check_lance
from classy_vision.embed.settings import Settings
from classy_vision.embed.sources import Source, find_kind
from classy_vision.embed.torchrun import find_rank, run_with_torchrun
from classy_vision.embed.work import Counts, Task, Tell, Worker
from classy_vision.models import ClassyModel


@dataclass(frozen=True)
class Summary:
    """What was written.

    Attributes:
        folder: with the shards.
        rows: in all shards.
        errors: samples that could not be read; ``errors.csv`` lists them.
        new: rows that this call computed.
        seconds: it took.
        busy: the share of the time in which the model ran, from 0 to 1: where it is low, reading is slow.
        ways: the sizes of batches, threads and devices with which rows were computed. Where there are several,
            the run was continued with others, and values may differ from those of one way by rounding.
    """

    folder: Path
    rows: int
    errors: int
    new: int
    seconds: float
    busy: float = 0.0
    ways: tuple[Mapping[str, Any], ...] = ()


def embed(
    model: str | Path | ClassyModel,
    source: str | Path | Source,
    output: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    progress: Tell | None = None,
    **settings: Any,
) -> Summary:
    """Writes features of blocks and outputs of heads for every image or video of a collection, in one pass.

    A folder of Parquet files is written: ``id``, ``path``, the columns of the source, and a fixed-size list for
    each block and pooling ("block3/mean") and head ("head/species"). ``load`` reads it. What is stopped or
    killed at any moment continues with ``resume``, and gives each row once, with the same values. Where all is
    done, ``resume`` tries samples again that could not be read. In processes of ``torchrun`` each takes its
    part of the shards, and with ``runner="ray"`` actors of Ray do.

    Args:
        model: a run folder, published weights, an exported file or what else means a model with weights; or a
            model, whose heads are replaced.
        source: a folder, a CSV or Parquet table with a column "path", tar files of WebDataset, or "hf:DATASET".
        output: the folder to write.
        resume: continue what is in the folder, or try again what could not be read.
        force: replace what is in the folder.
        progress: is called while samples are embedded; on Ray, after each shard.
        settings: values of ``Settings``: ``blocks``, ``heads``, ``pooling``, ``dtype``, ….

    Raises:
        ConfigError: something is not there or does not fit, or the folder is of another model or source.
        OperationError: the disk is full, or the source is not there any more, or the system fails to read it.
    """
    begin, how = time.perf_counter(), Settings.parse(settings, "embed")
    task = Task(model, source, Folder(Path(os.path.expanduser(output))), how, resume, force)
    run = _choose_runner(how)
    if how.lance:
        check_lance()
    if find_rank()[0] == 0:
        task.folder.check(resume=resume, force=force)
    if isinstance(source, (str, Path)):
        find_kind(str(source))
    with use_threads(how.threads):
        counts = run(task.keep_engine() if resume else task, progress)
    manifest, seconds = task.folder.read_manifest(), time.perf_counter() - begin
    busy = counts.busy / counts.seconds if counts.seconds else 0.0
    ways = tuple(manifest.get(COMPUTED, ()))
    return Summary(task.folder.path, manifest["rows"], manifest["errors"], counts.rows, seconds, busy, ways)


def _choose_runner(settings: Settings) -> Callable[[Task, Tell | None], Counts]:
    _, processes = find_rank()
    if settings.runner == "local":
        return run_here if processes == 1 else run_with_torchrun
    if processes > 1:
        raise ConfigError("torchrun and Ray are two ways to share out the work: choose one")
    from classy_vision.embed.on_ray import find_ray, run_on_ray

    find_ray()
    return run_on_ray


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Lets models run in ``count`` threads; None leaves their number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_here(task: Task, tell: Tell | None) -> Counts:
    """Embeds all shards in this process."""
    worker = Worker(task)
    model = worker.signature
    with task.folder.lock():
        source = task.begin(model)
        counts = worker.run(task.list_missing(source), tell)
        task.finish(model, source)
    return counts
