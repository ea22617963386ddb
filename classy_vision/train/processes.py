"""The processes of a run: how they start and are stopped, and what they tell each other."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from classy_vision.config import ConfigError, OperationError
from classy_vision.train.job import Job
from classy_vision.train.run_folder import RunFolder
from classy_vision.train.sharding import check_sharding, hiding_fsdp, wants_sharding


def make_accelerator(job: Job, folder: RunFolder) -> Accelerator:
    """Joins the processes, and finds the device of this one.

    Raises:
        ConfigError: they cannot share a batch.
    """
    schedule = job.settings.schedule
    changes = bool(schedule.unfreeze_at) or any(task.patience for task in job.settings.tasks.values())
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in this process
    sharded = wants_sharding()
    with hiding_fsdp():
        accelerator = Accelerator(
            mixed_precision=schedule.mixed_precision,
            cpu=not torch.cuda.is_available(),
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=changes)],
            log_with=job.settings.all_trackers or None,
            project_dir=folder.path,
        )
    if sharded and accelerator.num_processes > 1:
        check_sharding(schedule)
    if schedule.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"schedule.batch_size = {schedule.batch_size} is shared by {accelerator.num_processes} "
            f"processes, so it must be a multiple of that"
        )
    if schedule.loss_weighting == "upgrad" and accelerator.num_processes > 1:
        raise ConfigError(
            f"schedule.loss_weighting = 'upgrad' is for one process, and there are "
            f"{accelerator.num_processes}: use 'uncertainty' or 'fixed'"
        )
    if schedule.mixes and schedule.batch_size // accelerator.num_processes // schedule.accumulate % 2:
        raise ConfigError(
            f"mixup and cutmix mix pairs that one process reads: schedule.batch_size = {schedule.batch_size} "
            f"must be a multiple of {2 * accelerator.num_processes * schedule.accumulate}"
        )
    return accelerator


def is_first() -> bool:
    """Whether this is the process that writes, before the processes know each other."""
    return os.environ.get("RANK", "0") == "0"


def lock(folder: RunFolder) -> AbstractContextManager[None]:
    """Keeps other commands out of the folder; the first process does it for all."""
    return folder.lock() if is_first() else nullcontext()


@contextmanager
def catch_sigterm() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGTERM came, which does not end the process meanwhile."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Others do not receive signals.
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def explain_killed_workers(job: Job, folder: RunFolder) -> Iterator[None]:
    """Turns torch's error about a reading process that was killed into one message."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        said = re.search(r"killed by signal: (\w[\w ]*)", f"{error} {error.__cause__ or error.__context__}")
        how = f" ({said[1].strip()})" if said else ""
        more = f". Resume with: classy train --resume {folder.path}" if folder.has_checkpoint else ""
        raise OperationError(
            f"a process that reads {job.settings.data.unit}s was killed{how}: memory may have run out, which "
            f"fewer schedule.workers need less of{more}"
        ) from None


# -- what they tell each other

LEAST = 1e-6
"""Stands for a number of labels that is zero."""


@dataclass
class LossMeter:
    """Sums of losses and numbers of labels by head; they stay on the device.

    Attributes:
        accelerator: of the processes that share them.
        sums, counts: (heads,), of this process. A label of a mixed image counts for its part of it.
    """

    accelerator: Accelerator
    sums: Tensor
    counts: Tensor

    @classmethod
    def make(cls, accelerator: Accelerator, heads: int) -> LossMeter:
        """Makes a meter that has seen nothing."""
        device = accelerator.device
        counts = torch.zeros(heads, device=device)
        return cls(accelerator, torch.zeros(heads, device=device), counts)

    def add(self, sums: Tensor, counts: Tensor) -> None:
        """Adds those of a batch."""
        self.sums += sums.detach()
        self.counts += counts

    def local_means(self) -> list[float]:
        """The means of this process; waits for the device."""
        means: list[float] = (self.sums / self.counts.clamp(min=LEAST)).tolist()
        return means

    def means(self) -> list[float]:
        """The means over all processes; waits for the device."""
        sums, counts = self.accelerator.reduce((self.sums, self.counts), "sum")
        means: list[float] = (sums / counts.clamp(min=LEAST)).tolist()
        return means

    def gather(self) -> dict[str, Tensor]:
        """Collects what ``restore`` takes: (processes, heads) of each, on the CPU."""
        sums, counts = self.accelerator.gather((self.sums[None], self.counts[None]))
        return {"sums": sums.cpu(), "counts": counts.cpu()}

    def restore(self, gathered: Mapping[str, Tensor]) -> None:
        """Continues from what was gathered; among another number of processes the first takes all."""
        sums, counts = gathered["sums"], gathered["counts"]
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if len(sums) != world:
            sums, counts = (
                torch.cat([x.sum(0)[None], x.new_zeros(world - 1, x.shape[1])]) for x in (sums, counts)
            )
        self.sums.copy_(sums[rank])
        self.counts.copy_(counts[rank])


def gather_rows(accelerator: Accelerator, rows: Tensor) -> Tensor:
    """Collects the rows of all processes, of which each may have another number.

    ``pad_across_processes`` would turn bool into int64, and ``gather_for_metrics`` cannot tell how many rows
    were left out of a batch.
    """
    world = accelerator.num_processes
    if world == 1:
        return rows
    counts = accelerator.gather(torch.tensor([len(rows)], device=accelerator.device)).tolist()
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = accelerator.gather(padded.to(accelerator.device)).chunk(world)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])


class StepFlags(NamedTuple):
    """How a step went in all processes.

    Attributes:
        step: counted from 1.
        rows: of the records, those of this process.
        not_finite: by head, the processes in which its loss is not finite.
        stops: the processes that were asked to end.
    """

    step: int
    rows: Tensor
    not_finite: list[int]
    stops: int


@dataclass
class FlagReader:
    """Reads the flags of steps; on a GPU one step later, so that nobody waits for the device."""

    _pending: tuple[int, Tensor, Tensor, torch.cuda.Event | None] | None = None

    def add(self, step: int, rows: Tensor, flags: Tensor) -> list[StepFlags]:
        """Takes the flags of a step (heads + 1,), and gives those of the steps that can be read by now."""
        event = None
        if flags.is_cuda:
            flags = flags.to("cpu", non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # of torch
            event.record()
        before, self._pending = self.read_last() if event else [], (step, rows, flags, event)
        return before if event else self.read_last()

    def read_last(self) -> list[StepFlags]:
        """Gives those of the last step, if nobody has read them."""
        pending, self._pending = self._pending, None
        if pending is None:
            return []
        step, rows, flags, event = pending
        if event is not None:
            event.synchronize()
        *not_finite, stops = flags.tolist()
        return [StepFlags(step, rows, not_finite, stops)]
