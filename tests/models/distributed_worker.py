"""Run by test_distributed.py under torchrun: what it prints last is the verdict."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from classy_vision.train.sharding import shard_model
from tests.models.small import CASES, FAMILIES, batch, build, loss


def frozen() -> None:
    data_parallel(freeze=True)


def data_parallel(freeze: bool = False) -> None:
    for family, head in CASES:
        model = build(family, head)
        if freeze:
            model.freeze(FAMILIES[family][1])
        parallel = DistributedDataParallel(model)
        optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)
        for seed in range(3):  # a parameter that waits for a gradient fails in the second step
            optimizer.zero_grad()
            loss(parallel(batch(seed=2 * seed + dist.get_rank()))).backward()
            optimizer.step()
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, (family, head, missing)
        for parameter in model.parameters():
            theirs = [torch.empty_like(parameter) for _ in range(dist.get_world_size())]
            dist.all_gather(theirs, parameter.detach())
            assert all(torch.equal(theirs[0], other) for other in theirs), (family, head)


def sharded() -> None:
    for family, head in CASES:
        reference, model = build(family, head).double(), build(family, head).double()
        shard_model(model, torch.device("cpu"))
        wanted, given = reference(batch().double()), model(batch().double())
        for name in wanted:
            torch.testing.assert_close(given[name], wanted[name])
        loss(given).backward()
        loss(wanted).backward()
        gradients = dict(model.named_parameters())
        for name, parameter in reference.named_parameters():
            if parameter.grad is not None:
                full = gradients[name].grad.full_tensor()  # type: ignore[union-attr]
                torch.testing.assert_close(full, parameter.grad, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    {"data_parallel": data_parallel, "frozen": frozen, "sharded": sharded}[sys.argv[1]]()
    dist.barrier()
    if dist.get_rank() == 0:
        print(f"{sys.argv[1]}: {len(CASES)} cases agree")
    dist.destroy_process_group()
