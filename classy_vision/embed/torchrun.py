"""Embeds in the processes of torchrun: each takes every n-th shard, and the first one begins and finishes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta

import torch
from torch import distributed

from classy_vision.config import ConfigError
from classy_vision.embed.work import Counts, Task, Tell, Worker

PATIENCE = timedelta(days=30)
"""How long processes wait for each other at the end."""


def find_rank() -> tuple[int, int]:
    """Returns the number of this process and how many there are, as torchrun says."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def run_with_torchrun(task: Task, tell: Tell | None) -> Counts:
    """Embeds the shards of this process; returns what it has done itself."""
    rank, processes = find_rank()
    with _joined(), ExitStack() as stack:
        with _first_alone(rank):
            worker = Worker(_place(task.keep_engine() if rank else task))
            model = worker.signature
            if rank == 0:
                stack.enter_context(task.folder.lock())
                task.begin(model)
        counts = worker.run(task.list_missing(worker.source, rank, processes), tell)
        distributed.barrier()
        if rank == 0:
            task.finish(model, worker.source)
        distributed.barrier()
    return counts


def _place(task: Task) -> Task:
    """Gives each process a GPU of its own, where there are some."""
    settings = task.settings
    if settings.device or settings.engine:  # engines take the processor, as in a single process
        return task
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        return replace(task, settings=task.settings.model_copy(update={"device": device}))
    return task


@contextmanager
def _joined() -> Iterator[None]:
    """Lets the processes wait for each other, which they do on the CPU."""
    if distributed.is_initialized():
        yield
        return
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextmanager
def _first_alone(rank: int) -> Iterator[None]:
    """Lets the first process go ahead; where it fails, the others end as well."""
    said: list[str] = [""]
    try:
        if rank == 0:
            yield
    except BaseException as error:
        said = [str(error) or type(error).__name__]
        raise
    finally:
        distributed.broadcast_object_list(said, src=0)
    if rank:
        if said[0]:
            raise ConfigError(f"the first process says: {said[0]}")
        yield
