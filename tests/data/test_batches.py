"""Batches do not depend on the number of processes and workers."""

from __future__ import annotations

import multiprocessing
from itertools import chain
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard

from classy_vision.data.batches import EpochBatches, Samples, make_loader, start_workers
from classy_vision.data.config import ClipConfig, DataConfig
from classy_vision.data.preprocessing import with_statistics
from tests.data.videos import make_videos
from tests.train.conftest import make_table

ONE_PROCESSOR = "ignore:This DataLoader will create 2 worker processes"

ROWS = list(range(5, 28))


def batches(rank: int, world: int, seed: int | None, epoch: int = 0) -> list[list[int]]:
    order = EpochBatches(ROWS, 6, seed)
    order.epoch = epoch
    shard = BatchSamplerShard(order, world, rank, split_batches=True, even_batches=False)
    return [[row for _, row in batch] for batch in shard]


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch(world: int, seed: int | None) -> None:
    whole = batches(0, 1, seed)
    parts = [batches(rank, world, seed) for rank in range(world)]
    for i, batch in enumerate(whole):
        assert batch == list(chain(*(part[i] for part in parts if i < len(part))))


def test_order_changes_with_epoch_and_seed_and_nothing_comes_twice() -> None:
    orders = [list(chain(*batches(0, 1, seed, epoch))) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == list(chain(*batches(0, 1, 0, 0)))
    for order in orders:
        assert len(order) == len(set(order)) == 18  # the last, smaller batch is left out
    assert list(chain(*batches(0, 1, None))) == ROWS


def test_an_epoch_can_start_later() -> None:
    order = EpochBatches(ROWS, 6, 3)
    whole = list(order)
    order.start = 2
    assert list(order) == whole[2:]


@pytest.mark.filterwarnings(ONE_PROCESSOR)
def test_workers_change_nothing(tmp_path: Path) -> None:
    make_table(tmp_path)
    images = [tmp_path / f"{n}.png" for n in range(24)]
    data = with_statistics(DataConfig(image_size=8, augment="crop"), 3)
    seen = []
    for workers in (0, 2):
        order = EpochBatches(range(24), 4, 0)
        loader = make_loader(Samples(images, data, 3, seed=0), order, workers=workers)
        epochs = []
        for order.epoch in (0, 1):
            epochs.append(torch.cat([batch.images for batch in loader]))
        assert not torch.equal(*epochs)
        seen.append(torch.cat(epochs))
    assert torch.equal(*seen)


@pytest.mark.filterwarnings(ONE_PROCESSOR)
@pytest.mark.parametrize("workers", [0, 2])
def test_workers_start_before_there_is_anything_to_read(workers: int, tmp_path: Path) -> None:
    make_table(tmp_path)
    images = [tmp_path / f"{n}.png" for n in range(24)]
    order = EpochBatches(range(24), 4, None)
    loader = make_loader(
        Samples(images, with_statistics(DataConfig(image_size=8), 3), 3, None), order, workers=workers
    )

    def processes() -> set[int]:
        return {child.pid for child in multiprocessing.active_children() if child.pid} - others

    others: set[int] = set()
    others = processes()
    start_workers(order, loader)
    started = processes()
    assert len(started) == workers
    for _ in range(2):
        assert [row for batch in loader for row in batch.rows.tolist()] == list(range(24))
    assert processes() == started


@pytest.mark.filterwarnings(ONE_PROCESSOR)
@pytest.mark.parametrize("seed", [None, 0])
def test_workers_change_no_clip(seed: int | None, tmp_path: Path) -> None:
    files = sorted(make_videos(tmp_path, train=1, val=1, frames=12).rglob("*.mp4"))
    data = DataConfig(image_size=24, clip=ClipConfig(frames=4, clips=2), augment="crop")
    seen = []
    for workers in (0, 2):
        order = EpochBatches(range(len(files)), 4, seed)
        order.epoch = 1
        loader = make_loader(Samples(files, with_statistics(data, 3), 3, seed), order, workers=workers)
        found = list(loader)
        assert not any(batch.errors for batch in found)
        seen.append(torch.cat([batch.images for batch in found]))
    assert seen[0].shape == (8, 2 if seed is None else 1, 3, 4, 24, 24)
    assert torch.equal(*seen)
