"""Batches that are the same whatever the number of processes and workers.

The order of images depends on (seed, epoch) and an image's augmentation on (seed, epoch, row).
Each global batch is dealt out to the processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from classy_vision.train.images import ImageError, open_image
from classy_vision.train.job import Job

Key = tuple[int, int]
"""Epoch and row."""
Sample = tuple[int, Tensor, str]
"""Row, image (c, h, w), and what is wrong with its file."""


class Batch(NamedTuple):
    """Images of one process.

    Attributes:
        rows: (n,), of the records.
        images: (n, c, h, w); zeros where a file is unreadable.
        errors: a message per unreadable file.
        bad: (n,) of bool: which they are.
    """

    rows: Tensor
    images: Tensor
    errors: list[str]
    bad: Tensor


class GlobalBatches(Sampler[list[Key]]):
    """This process's part of every global batch.

    Args:
        rows: what to go through.
        batch_size: over all processes.
        rank, world: which process of how many.
        seed: of the order; None keeps it, and keeps the last batch where it is smaller. With a
            seed that batch is dropped: the rows in it differ from epoch to epoch.
    """

    def __init__(self, rows: Sequence[int], batch_size: int, rank: int, world: int, seed: int | None) -> None:
        self.rows = torch.tensor(rows)
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole + (self.seed is None and rest > 0)

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            if mine := batch[self.rank :: self.world]:
                yield [(self.epoch, row) for row in mine]

    def _order(self) -> list[int]:
        if self.seed is None:
            return self.rows.tolist()
        generator = torch.Generator().manual_seed(Random(f"{self.seed} {self.epoch}").getrandbits(63))
        return self.rows[torch.randperm(len(self.rows), generator=generator)].tolist()


class ImageDataset(Dataset[Sample]):
    """Reads and prepares images; labels stay in the main process."""

    def __init__(self, job: Job, augment: bool) -> None:
        self.images = job.records.images
        self.channels = job.channels
        self.preprocessing = job.preprocessing
        self.seed = job.settings.schedule.seed
        self.augment = augment

    def __getitem__(self, key: Key) -> Sample:
        epoch, row = key
        rng = Random(f"{self.seed} {epoch} {row}") if self.augment else None
        try:
            return row, self.preprocessing(open_image(self.images[row], self.channels), rng), ""
        except ImageError as error:
            size = self.preprocessing.data.image_size
            return row, torch.zeros(self.channels, size, size), str(error)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples to a batch."""
    rows, images, errors = zip(*samples)
    bad = torch.tensor([bool(error) for error in errors])
    return Batch(torch.tensor(rows), torch.stack(images), [error for error in errors if error], bad)


def make_loader(job: Job, held_out: bool, rank: int, world: int, pin_memory: bool) -> DataLoader[Sample]:
    """A loader of one split for one process."""
    schedule = job.settings.schedule
    seed = None if held_out else schedule.seed
    workers = min(4, os.cpu_count() or 1) if schedule.workers is None else schedule.workers
    return DataLoader(
        ImageDataset(job, augment=not held_out),
        batch_sampler=GlobalBatches(job.records.rows(held_out), schedule.batch_size, rank, world, seed),
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
    )
