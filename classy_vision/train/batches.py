"""Batches that are the same whatever the number of processes and workers.

The order of samples depends on (seed, epoch) and a sample's augmentation on (seed, epoch, row).
Each global batch is dealt out to the processes.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from classy_vision.data.images import ImageError
from classy_vision.data.processors import processors
from classy_vision.data.samples import blank_views, read_views
from classy_vision.train.job import Job

Key = tuple[int, int]
"""Epoch and row."""
Sample = tuple[int, Tensor, str]
"""Row, views (v, c, h, w) or (v, c, t, h, w), and what is wrong with the file."""


class Batch(NamedTuple):
    """Images or clips of one process, without those that cannot be read.

    Attributes:
        rows: (n,), of the records.
        places: (n,), among what this process was to read.
        images: (n, v, c, h, w) or (n, v, c, t, h, w). There is one view in training and of images.
        errors: a message per unreadable file.
    """

    rows: Tensor
    places: Tensor
    images: Tensor
    errors: list[str]


class GlobalBatches(Sampler[list[Key]]):
    """This process's part of every global batch.

    Args:
        rows: what to go through.
        batch_size: over all processes.
        rank, world: which process of how many.
        seed: of the order; None keeps it, and keeps the last batch where it is smaller. With a
            seed that batch is dropped: the rows in it differ from epoch to epoch.

    Attributes:
        epoch: which the order is of.
        start: batches to leave out at the beginning.
    """

    def __init__(self, rows: Sequence[int], batch_size: int, rank: int, world: int, seed: int | None) -> None:
        self.rows = torch.tensor(rows)
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole + (self.seed is None and rest > 0)

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order()
        for start in range(self.start * self.batch_size, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            if mine := batch[self.rank :: self.world]:
                yield [(self.epoch, row) for row in mine]

    def _order(self) -> list[int]:
        if self.seed is None:
            return self.rows.tolist()
        generator = torch.Generator().manual_seed(Random(f"{self.seed} {self.epoch}").getrandbits(63))
        return self.rows[torch.randperm(len(self.rows), generator=generator)].tolist()


class Samples(Dataset[Sample]):
    """Reads and prepares images or clips; labels stay in the main process."""

    def __init__(self, job: Job, augment: bool) -> None:
        self.images = job.records.images
        self.channels = job.channels
        self.data = job.settings.data
        self.seed = job.settings.schedule.seed
        self.augment = augment

    def __getitem__(self, key: Key) -> Sample:
        epoch, row = key
        rng = Random(f"{self.seed} {epoch} {row}") if self.augment else None
        try:
            return row, read_views(self.images[row], self.data, self.channels, rng), ""
        except ImageError as error:
            return row, blank_views(self.data, self.channels, self.augment), str(error)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch; unreadable ones are only named."""
    rows, views, errors = zip(*samples)
    places = torch.tensor([i for i, error in enumerate(errors) if not error], dtype=torch.long)
    images = torch.stack([views[i] for i in places]) if len(places) else views[0][None][:0]
    return Batch(torch.tensor(rows)[places], places, images, [error for error in errors if error])


def make_loader(job: Job, held_out: bool, rank: int, world: int, pin_memory: bool) -> DataLoader[Sample]:
    """A loader of one split for one process.

    A batch of evaluation has as many views as one of training, so that it needs no more memory.
    """
    schedule = job.settings.schedule
    size = schedule.batch_size
    if held_out:
        size = max(world, size // job.settings.data.views)
    seed = None if held_out else schedule.seed
    workers = min(4, processors()) if schedule.workers is None else schedule.workers
    return DataLoader(
        Samples(job, augment=not held_out),
        batch_sampler=GlobalBatches(job.records.rows(held_out), size, rank, world, seed),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # the default one draws from torch's, which is the model's
    )


def _start_worker(_: int) -> None:
    """Ties a process that reads to the one that trains: a signal to all of them is for that one to answer,
    and however it ends, none outlives it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        die_with_parent = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(die_with_parent, signal.SIGKILL)
