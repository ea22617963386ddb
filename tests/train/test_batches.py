"""Batches do not depend on the number of processes and workers."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import torch

from classy_vision.train.batches import GlobalBatches, make_loader
from classy_vision.train.config import TrainConfig
from classy_vision.train.job import prepare
from tests.train.command import head, job

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
