"""The training loop: epochs of steps and evaluations, on any number of processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.progress import TaskID
from torch import Tensor, nn
from torch.utils.data import DataLoader

from classy_vision.config import ConfigError, OperationError
from classy_vision.train.batches import Batch, GlobalBatches, Sample
from classy_vision.train.display import Display
from classy_vision.train.draws import GlobalDraws, seed_step
from classy_vision.train.job import Job, trunk_parts
from classy_vision.train.metrics import Metric
from classy_vision.train.optimizer import learning_rate
from classy_vision.train.run_folder import Row
from classy_vision.train.views import run_views


@dataclass
class LossMeter:
    """Sums of losses and numbers of labels by head; they stay on the device.

    Attributes:
        accelerator: of the processes that share them.
        sums, counts: (heads,), of this process.
    """

    accelerator: Accelerator
    sums: Tensor
    counts: Tensor

    def add(self, sums: Tensor, counts: Tensor) -> None:
        """Adds those of a batch."""
        self.sums += sums.detach()
        self.counts += counts

    def local(self) -> list[float]:
        """The means of this process; waits for the device."""
        means: list[float] = (self.sums / self.counts.clamp(min=1)).tolist()
        return means

    def means(self) -> list[float]:
        """The means over all processes; waits for the device."""
        sums, counts = self.accelerator.reduce((self.sums, self.counts), "sum")
        means: list[float] = (sums / counts.clamp(min=1)).tolist()
        return means

    def gathered(self) -> dict[str, Tensor]:
        """What ``restore`` takes: (processes, heads) of each, on the CPU."""
        sums, counts = self.accelerator.gather((self.sums[None], self.counts[None]))
        return {"sums": sums.cpu(), "counts": counts.cpu()}

    def restore(self, gathered: Mapping[str, Tensor]) -> None:
        """Goes on from what was gathered; among another number of processes the first takes all."""
        sums, counts = gathered["sums"], gathered["counts"]
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if len(sums) != world:
            sums, counts = (
                torch.cat([x.sum(0)[None], x.new_zeros(world - 1, x.shape[1])]) for x in (sums, counts)
            )
        self.sums.copy_(sums[rank])
        self.counts.copy_(counts[rank])


class StoppedError(Exception):
    """The run was asked to end; ``progress`` is what it takes to go on within the epoch."""

    def __init__(self, progress: dict[str, Any]) -> None:
        super().__init__("stopped")
        self.progress = progress


@dataclass
class Watch:
    """What all processes know of the last step: heads without a finite loss, and whether to stop.

    On a GPU it is looked at one step later, so that nobody waits for the device.
    """

    _seen: tuple[int, Tensor, Tensor, torch.cuda.Event | None] | None = None

    def add(self, step: int, rows: Tensor, flags: Tensor) -> list[tuple[int, Tensor, list[int]]]:
        """Takes the flags of a step, and gives those of the steps that can be looked at by now."""
        event = None
        if flags.is_cuda:
            flags = flags.to("cpu", non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        before, self._seen = self._seen, (step, rows, flags, event)
        return ([_looked_at(before)] if before else []) + ([] if event else self.last())

    def last(self) -> list[tuple[int, Tensor, list[int]]]:
        """Those of the last step, if nobody has seen them."""
        seen, self._seen = self._seen, None
        return [_looked_at(seen)] if seen else []


def _looked_at(seen: tuple[int, Tensor, Tensor, torch.cuda.Event | None]) -> tuple[int, Tensor, list[int]]:
    step, rows, flags, event = seen
    if event is not None:
        event.synchronize()
    return step, rows, flags.tolist()


@dataclass
class Engine:
    """A job in motion.

    Attributes:
        job: what is trained.
        accelerator: the processes and devices.
        model: as the accelerator wraps it.
        optimizer: as the accelerator wraps it.
        train_batches, val_batches: of this process.
        display: shows the progress.
        bad: messages about unreadable files that were skipped.
        is_stopping: whether this process was asked to end.
    """

    job: Job
    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    train_batches: DataLoader[Sample]
    val_batches: DataLoader[Sample]
    display: Display
    bad: set[str] = field(default_factory=set)
    is_stopping: Callable[[], bool] = lambda: False

    def __post_init__(self) -> None:
        weights = [task.config.weight for task in self.job.tasks.values()]
        self._weights = torch.tensor(weights, device=self.accelerator.device)

    def run_epoch(self, epoch: int, progress: Mapping[str, Any] | None = None) -> Row:
        """Trains and evaluates, and says what came of it.

        Args:
            epoch: counted from 0.
            progress: of an epoch that was stopped.

        Raises:
            ConfigError: a file is unreadable.
            OperationError: the loss is no number any more.
            StoppedError: some process was asked to end.
        """
        done, before = (progress["step"], progress["seconds"]) if progress else (0, 0.0)
        bar = self.display.start(epoch, len(self.train_batches), done)
        started = time.monotonic() - before
        meter = self._meter()
        if progress:
            meter.restore(progress)
        rate = self.train(epoch, bar, meter, done, started)
        losses = {f"train/{head}/loss": loss for head, loss in zip(self.job.tasks, meter.means())}
        seconds = time.monotonic() - started
        row = {"epoch": epoch + 1, "learning_rate": rate, **losses}
        row[f"{self._unit}s_per_second"] = len(self.train_batches) * self._batch_size / seconds
        measured = self.evaluate()
        if measured is None:
            raise self._stopped(len(self.train_batches), meter, started)
        row.update(measured)
        row["seconds"] = time.monotonic() - started
        self.display.end(bar, row)
        self._report_bad()
        return row

    # Training

    def train(self, epoch: int, bar: TaskID, meter: LossMeter, done: int, started: float) -> float:
        """The rest of a pass over the training split, behind ``done`` steps; gives the last rate."""
        assert isinstance(self.train_batches.batch_sampler, GlobalBatches)
        self.train_batches.batch_sampler.epoch, self.train_batches.batch_sampler.start = epoch, done
        self._train_mode()
        watch, steps = Watch(), len(self.train_batches)
        rate = learning_rate(self.job.settings.schedule, epoch * steps + max(0, done - 1), steps)
        for step, batch in enumerate(self.train_batches if done < steps else (), done + 1):
            rate = learning_rate(self.job.settings.schedule, epoch * steps + step - 1, steps)
            self._note_bad(batch.errors)
            seed_step(self._seed, epoch, step, self._rank if self._compiled else None)
            sums, counts, flags = self.step(batch, rate)
            meter.add(sums, counts)
            stop = self._look(epoch, watch.add(step, batch.rows, flags))
            self.display.step(bar, meter.local, step * self._batch_size / (time.monotonic() - started))
            if stop and step < steps:
                self._look(epoch, watch.last())
                raise self._stopped(step, meter, started)
        self._look(epoch, watch.last())
        return rate

    def step(self, batch: Batch, rate: float) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the optimizer: sums of losses and numbers of labels by head, and flags.

        The flags (heads + 1,) count the processes where the loss of a head is not finite, and those
        that were asked to end.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if not self._has_rows(batch):
            zero = self._meter()
            return zero.sums, zero.counts, self._everywhere(zero.sums, zero.counts)[1]
        with self._draws(batch):
            sums, counts = self.losses(self.model, batch)
            # The mean is over the labels of all processes, and DDP averages gradients over processes.
            everywhere, flags = self._everywhere(sums, counts)
            loss = (sums * self._weights / everywhere).sum() * self.accelerator.num_processes
            self.accelerator.backward(loss)
        clip = self.job.settings.schedule.clip_grad_norm
        if clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sums, counts, flags

    def _everywhere(self, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of labels in all processes, at least 1, and the flags of ``step``."""
        stop = counts.new_full((1,), int(self.is_stopping()))
        told = self.accelerator.reduce(torch.cat([counts, (~sums.detach().isfinite()).to(counts), stop]), "sum")
        return told[: len(counts)].clamp(min=1), told[len(counts) :]

    def _has_rows(self, batch: Batch) -> bool:
        """Whether enough of the global batch is readable for batch norms to see more than one row."""
        if self.job.settings.data.on_bad_image == "error":
            return True
        rows = torch.tensor(len(batch.rows), device=self.accelerator.device)
        return int(self.accelerator.reduce(rows, "sum")) >= min(2, self._batch_size)

    def _draws(self, batch: Batch) -> AbstractContextManager[Any]:
        """Random numbers by the rows of the global batch; the compiler draws its own."""
        world = self.accelerator.num_processes
        if self._compiled or len(batch.rows) == self._batch_size:
            return nullcontext()
        places = batch.places * world + self._rank
        return GlobalDraws(places.to(self.accelerator.device), self._batch_size)

    def _look(self, epoch: int, seen: list[tuple[int, Tensor, list[int]]]) -> bool:
        """Raises where a loss is not finite, and says whether to stop."""
        stop = False
        for step, rows, (*wrong, stops) in seen:
            stop = stop or stops > 0
            if any(wrong):
                raise self._not_finite(epoch, step, rows, wrong)
        return stop

    def _all_stop(self) -> bool:
        """Whether some process was asked to end."""
        asked = torch.tensor(int(self.is_stopping()), device=self.accelerator.device)
        return int(self.accelerator.reduce(asked, "sum")) > 0

    def _stopped(self, step: int, meter: LossMeter, started: float) -> StoppedError:
        return StoppedError({"step": step, "seconds": time.monotonic() - started, **meter.gathered()})

    def _not_finite(self, epoch: int, step: int, rows: Tensor, wrong: list[int]) -> OperationError:
        heads = [head for head, times in zip(self.job.tasks, wrong) if times]
        names = [self.job.records.name(row) for row in sorted(gather_object(rows.tolist()))]
        few = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        return OperationError(
            f"the loss of head {heads[0]!r} is not a finite number in epoch {epoch + 1}, step {step} "
            f"(of {few}): try a lower schedule.learning_rate, a longer warmup_epochs, or clip_grad_norm"
        )

    def losses(
        self, model: nn.Module, batch: Batch, metrics: dict[str, dict[str, Metric]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs a batch: sums of losses and numbers of labels by head, (heads,) each.

        Args:
            model: to run.
            batch: of images or clips.
            metrics: by head and name, in evaluation; they are told of the labels that are there.
        """
        views = batch.images.to(self.accelerator.device, non_blocking=True)
        with self.accelerator.autocast():
            outputs = run_views(model, views, self.job.tasks)
        sums, counts = [], []
        for head, output in outputs.items():
            task, targets = self.job.tasks[head], self._targets(head, batch)
            valid = task.valid(targets)
            losses = task.training_losses if metrics is None else task.losses
            sums.append(losses(output, targets).sum())
            counts.append(valid.sum())
            if metrics is not None and valid.any():
                comparable = task.comparable(task.in_units(output[valid]), targets[valid])
                for metric in metrics[head].values():
                    metric.update(*comparable)
        return torch.stack(sums), torch.stack(counts)

    # Evaluation

    @torch.no_grad()
    def evaluate(self) -> Row | None:
        """Losses and metrics of the held-out split; None where some process was asked to end."""
        model = self.accelerator.unwrap_model(self.model).eval()
        metrics = {head: task.metrics() for head, task in self.job.tasks.items()}
        meter = self._meter()
        for batch in self.val_batches:
            self._note_bad(batch.errors)
            if len(batch.rows):
                meter.add(*self.losses(model, batch, metrics))
            if self.is_stopping():
                break
        if self._all_stop():
            return None
        row = {f"val/{head}/loss": loss for head, loss in zip(self.job.tasks, meter.means())}
        for head, named in metrics.items():
            row |= {f"val/{head}/{name}": metric.compute(self._gather) for name, metric in named.items()}
        return row

    def _gather(self, rows: Tensor) -> Tensor:
        """The rows of all processes, of which each may have another number."""
        if self.accelerator.num_processes == 1:
            return rows
        device, world = self.accelerator.device, self.accelerator.num_processes
        counts = self.accelerator.gather(torch.tensor([len(rows)], device=device)).tolist()
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = self.accelerator.gather(padded.to(device)).chunk(world)
        return torch.cat([part[:count] for part, count in zip(parts, counts)])

    # Parts

    @property
    def _rank(self) -> int:
        return self.accelerator.process_index

    @property
    def _unit(self) -> str:
        return self.job.settings.data.unit

    @property
    def _batch_size(self) -> int:
        return self.job.settings.schedule.batch_size

    @property
    def _seed(self) -> int:
        return self.job.settings.schedule.seed

    @property
    def _compiled(self) -> bool:
        return self.job.settings.schedule.compile

    def _meter(self) -> LossMeter:
        heads, device = len(self.job.tasks), self.accelerator.device
        counts = torch.zeros(heads, dtype=torch.long, device=device)
        return LossMeter(self.accelerator, torch.zeros(heads, device=device), counts)

    def _train_mode(self) -> None:
        self.model.train()
        if self.job.settings.schedule.freeze_trunk:
            for part in trunk_parts(self.accelerator.unwrap_model(self.model)):
                part.eval()

    def _targets(self, head: str, batch: Batch) -> Tensor:
        """The targets of a batch on the device."""
        targets = self.job.targets[head][batch.rows]
        return targets.to(self.accelerator.device, non_blocking=True)

    def close(self) -> None:
        """Ends the processes that read, also those that are stuck."""
        for loader in (self.train_batches, self.val_batches):
            iterator, loader._iterator = loader._iterator, None
            workers = list(getattr(iterator, "_workers", ()))
            del iterator  # which asks them to end
            for worker in workers:
                worker.kill()

    def _note_bad(self, errors: list[str]) -> None:
        if errors and self.job.settings.data.on_bad_image == "error":
            raise ConfigError(
                f"{errors[0]}. Take it out of the data, or set data.on_bad_image to 'skip' to go on "
                f"without such {self._unit}s"
            )
        self.bad.update(errors)

    def _report_bad(self) -> None:
        if self.job.settings.data.on_bad_image == "skip":
            bad = sorted(set(gather_object(sorted(self.bad))))
            if bad:
                self.display.line(f"skipped {len(bad)} unreadable {self._unit}s, the first is {bad[0]}")
