"""Batches that are the same whatever the number of processes and workers.

The order of samples depends on (seed, epoch) and a sample's augmentation on (seed, epoch, row).
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from classy_vision.data.config import DataConfig
from classy_vision.data.files import count_workers
from classy_vision.data.images import ImageError
from classy_vision.data.masks import PixelLabels
from classy_vision.data.samples import make_blank_views, read_labelled, read_views

Key = tuple[int, int]
"""Epoch and row."""


class Sample(NamedTuple):
    """What is read of a row.

    Attributes:
        row: of the records.
        views: (v, c, h, w) or (v, c, t, h, w).
        error: what is wrong with the file.
        dense: the labels of pixels by head, (h, w).
    """

    row: int
    views: Tensor
    error: str
    dense: Mapping[str, Tensor] = {}


class Batch(NamedTuple):
    """Images or clips of one process, without those that cannot be read.

    Attributes:
        rows: (n,), of the records.
        places: (n,), among what this process was to read.
        images: (n, v, c, h, w) or (n, v, c, t, h, w). There is one view in training.
        errors: a message per unreadable file.
        dense: the labels of pixels by head, (n, h, w).
    """

    rows: Tensor
    places: Tensor
    images: Tensor
    errors: list[str]
    dense: Mapping[str, Tensor] = {}

    def split(self, parts: int) -> list[Batch]:
        """Divides the batch evenly; what was wrong with files stays with the first part."""
        if parts == 1:
            return [self]
        dense = {head: labels.tensor_split(parts) for head, labels in self.dense.items()}
        rows, places, images = (x.tensor_split(parts) for x in (self.rows, self.places, self.images))
        return [
            Batch(
                rows[i],
                places[i],
                images[i],
                self.errors if i == 0 else [],
                {head: labels[i] for head, labels in dense.items()},
            )
            for i in range(parts)
        ]


class EpochBatches(Sampler[list[Key]]):
    """The rows of each batch of an epoch, for all processes together.

    It takes the place of ``accelerate``'s ``SeedableRandomSampler`` and ``skip_first_batches``, because a
    worker needs the epoch of a row to draw its augmentation, and because the order of runs that are
    resumed must not change.

    Args:
        rows: what to go through.
        batch_size: over all processes.
        seed: of the order. None keeps the order of ``rows``, and keeps the last batch where it is
            smaller. With a seed that batch is dropped: the rows in it differ from epoch to epoch.
        weights: how likely each of ``rows`` is to be drawn, with replacement; None takes each of them once.

    Attributes:
        epoch: which epoch the order is of.
        start: batches to skip at the beginning.
    """

    def __init__(
        self, rows: Sequence[int], batch_size: int, seed: int | None, weights: Tensor | None = None
    ) -> None:
        self.rows = torch.tensor(rows)
        self.batch_size = batch_size
        self.drop_last = seed is not None
        self.seed = seed
        self.weights = weights
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self.rows), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[Key]]:
        order = self._order()
        for start in range(self.start * self.batch_size, len(self) * self.batch_size, self.batch_size):
            yield [(self.epoch, row) for row in order[start : start + self.batch_size]]

    def _order(self) -> list[int]:
        if self.seed is None:
            return self.rows.tolist()
        generator = torch.Generator().manual_seed(Random(f"{self.seed} {self.epoch}").getrandbits(63))
        if self.weights is not None:
            drawn = torch.multinomial(self.weights, len(self.rows), replacement=True, generator=generator)
            return self.rows[drawn].tolist()
        return self.rows[torch.randperm(len(self.rows), generator=generator)].tolist()


class Samples(Dataset[Sample]):
    """Reads and prepares images or clips; labels stay in the main process.

    Args:
        images: files, or images in memory.
        data: which part of them the model sees, with ``mean`` and ``std``.
        channels: of the model.
        seed: of the augmentation of training; None gives the views of evaluation.
        dense: the labels of pixels by head, which are read with the images.
    """

    def __init__(
        self,
        images: Sequence[Any],
        data: DataConfig,
        channels: int,
        seed: int | None = None,
        dense: Mapping[str, PixelLabels] | None = None,
    ) -> None:
        self.images = images
        self.data = data
        self.channels = channels
        self.seed = seed
        self.dense = dense or {}

    def __getitem__(self, key: Key) -> Sample:
        epoch, row = key
        rng = None if self.seed is None else Random(f"{self.seed} {epoch} {row}")
        try:
            if self.dense:
                image = self.images[row]
                views, dense = read_labelled(row, image, self.data, self.channels, self.dense, rng)
                return Sample(row, views, "", dense)
            return Sample(row, read_views(self.images[row], self.data, self.channels, rng), "")
        except ImageError as error:
            return self._make_blank(row, rng is not None, str(error))

    def _make_blank(self, row: int, training: bool, error: str) -> Sample:
        side = self.data.side(training)
        dense = {head: torch.from_numpy(labels.make_blank(side)) for head, labels in self.dense.items()}
        return Sample(row, make_blank_views(self.data, self.channels, training), error, dense)


def make_loader(
    samples: Dataset[Sample], batches: Sampler[list[Key]], *, workers: int | None = 0, pin_memory: bool = False
) -> DataLoader[Sample]:
    """A loader of ``samples``, which gives a ``Batch`` for each of ``batches``.

    Args:
        samples: what is read.
        batches: the keys of each batch.
        workers: processes that read; 0 reads in this one, and None takes one per processor, at most 4.
        pin_memory: of the batches, which speeds up copies to a GPU.
    """
    workers = count_workers() if workers is None else workers
    return DataLoader(
        samples,
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # The default one draws from torch's, which is the model's.
    )


def start_workers(order: EpochBatches, batches: DataLoader[Sample]) -> None:
    """Starts the processes that read ``batches``, which come in ``order``, and gives them nothing to read yet.

    They are copies of this process. One that starts after a step of training holds the memory of that step for
    good, and this process copies each page of it that it writes to.
    """
    if batches.num_workers:
        order.start = len(order)
        iter(batches)
        order.start = 0


def _collate(samples: Sequence[Sample]) -> Batch:
    """Makes a batch of samples; unreadable ones are only named."""
    places = [i for i, sample in enumerate(samples) if not sample.error]

    def stack(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensors[i] for i in places]) if places else tensors[0][None][:0]

    return Batch(
        torch.tensor([samples[i].row for i in places], dtype=torch.long),
        torch.tensor(places, dtype=torch.long),
        stack([sample.views for sample in samples]),
        [sample.error for sample in samples if sample.error],
        {head: stack([sample.dense[head] for sample in samples]) for head in samples[0].dense},
    )


def _start_worker(_: int) -> None:
    """Ties a process that reads to the one that trains.

    A signal to all of them is for that one to answer, and however it ends, none outlives it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        die_with_parent = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(die_with_parent, signal.SIGKILL)
