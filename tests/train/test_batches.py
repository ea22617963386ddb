"""Batches do not depend on the number of processes and workers."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch

from classy_vision.train.batches import GlobalBatches, make_loader
from classy_vision.train.config import TrainConfig
from classy_vision.train.job import prepare
from tests.train.command import clips_job, head, job

ONE_PROCESSOR = "ignore:This DataLoader will create 2 worker processes"

ROWS = list(range(5, 28))


def batches(rank: int, world: int, seed: int | None, epoch: int = 0) -> list[list[int]]:
    sampler = GlobalBatches(ROWS, 6, rank, world, seed)
    sampler.epoch = epoch
    return [[row for _, row in batch] for batch in sampler]


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch(world: int, seed: int | None) -> None:
    whole = batches(0, 1, seed)
    parts = [batches(rank, world, seed) for rank in range(world)]
    for i, batch in enumerate(whole):
        assert sorted(batch) == sorted(chain(*(part[i] for part in parts if i < len(part))))


def test_order_changes_with_epoch_and_seed_and_nothing_comes_twice() -> None:
    orders = [list(chain(*batches(0, 1, seed, epoch))) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert orders[0] == list(chain(*batches(0, 1, 0, 0)))
    for order in orders:
        assert len(order) == len(set(order)) == 18  # the last, smaller batch is left out
    assert list(chain(*batches(0, 1, None))) == ROWS


@pytest.mark.filterwarnings(ONE_PROCESSOR)
def test_workers_change_nothing(table: Path) -> None:
    seen = []
    for workers in (0, 2):
        data = {"source": "table", "file": str(table), "augment": "crop"}
        config = TrainConfig.parse(job(data, head("colour"), schedule={"workers": workers}))
        loader = make_loader(prepare(config), False, rank=0, world=1, pin_memory=False)
        images = []
        for epoch in (0, 1):
            loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
            images.append(torch.cat([batch.images for batch in loader]))
        assert not torch.equal(*images)
        seen.append(torch.cat(images))
    assert torch.equal(*seen)


@pytest.mark.filterwarnings(ONE_PROCESSOR)
@pytest.mark.parametrize("held_out", [False, True])
def test_workers_change_no_clip(held_out: bool, videos: Path) -> None:
    seen = []
    for workers in (0, 2):
        data = {"clip": {"frames": 4, "clips": 2}, "augment": "crop"}
        config = TrainConfig.parse(clips_job(videos, data=data, schedule={"workers": workers}))
        loader = make_loader(prepare(config), held_out, rank=0, world=1, pin_memory=False)
        loader.batch_sampler.epoch = 1  # type: ignore[union-attr]
        batches = list(loader)
        assert not any(batch.errors for batch in batches)
        seen.append(torch.cat([batch.images for batch in batches]))
    assert seen[0].shape == ((8, 2) if held_out else (16, 1)) + (3, 4, 24, 24)
    assert torch.equal(*seen)


def test_a_batch_of_evaluation_has_as_many_clips_as_one_of_training(videos: Path) -> None:
    config = clips_job(
        videos, data={"clip": {"frames": 4, "clips": 2, "crops": 3}}, schedule={"batch_size": 12}
    )
    ready = prepare(TrainConfig.parse(config))
    assert [len(batch) for batch in make_loader(ready, True, 0, 1, False).batch_sampler] == [2] * 4
    assert [len(batch) for batch in make_loader(ready, False, 0, 1, False).batch_sampler] == [12]
    few = prepare(TrainConfig.parse({**config, "schedule": {"batch_size": 2}}))
    for rank in (0, 1):  # every process has something to evaluate in every batch
        assert [len(batch) for batch in make_loader(few, True, rank, 2, False).batch_sampler] == [1] * 4
