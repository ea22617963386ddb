"""The training loop: epochs of steps and evaluations, on any number of processes."""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.progress import TaskID
from torch import Tensor, nn
from torch.utils.data import DataLoader

from classy_vision.errors import ConfigError, OperationError
from classy_vision.train.batches import Batch, GlobalBatches, Sample
from classy_vision.train.display import Display
from classy_vision.train.job import Job, trunk_parts
from classy_vision.train.optimizer import learning_rate
from classy_vision.train.run_folder import Row
from classy_vision.train.views import run_views

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


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
    """

    job: Job
    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    train_batches: DataLoader[Sample]
    val_batches: DataLoader[Sample]
    display: Display
    bad: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        weights = [task.config.weight for task in self.job.tasks.values()]
        self._weights = torch.tensor(weights, device=self.accelerator.device)

    def run_epoch(self, epoch: int) -> Row:
        """Trains and evaluates, and says what came of it.

        Args:
            epoch: counted from 0.

        Raises:
            ConfigError: the loss is no number any more, or a file is unreadable.
        """
        torch.manual_seed(Random(f"{self.job.settings.schedule.seed} {epoch}").getrandbits(63) + self._rank)
        bar = self.display.start(epoch, len(self.train_batches))
        started = time.monotonic()
        row = {"epoch": epoch + 1, **self.train(epoch, bar)}
        seconds = time.monotonic() - started
        row[f"{self._unit}s_per_second"] = len(self.train_batches) * self._batch_size / seconds
        row.update(self.evaluate())
        row["seconds"] = time.monotonic() - started
        self.display.end(bar, row)
        self._report_bad()
        return row

    # Training

    def train(self, epoch: int, bar: TaskID) -> Row:
        """One pass over the training split: rate and losses."""
        assert isinstance(self.train_batches.batch_sampler, GlobalBatches)
        self.train_batches.batch_sampler.epoch = epoch
        self._train_mode()
        meter, rate, steps = self._meter(), 0.0, len(self.train_batches)
        started = time.monotonic()
        for step, batch in enumerate(self.train_batches, 1):
            rate = learning_rate(self.job.settings.schedule, epoch * steps + step - 1, steps)
            meter.add(*self.step(batch, rate))
            speed = step * self._batch_size / (time.monotonic() - started)
            self.display.step(bar, meter.local, speed)
        losses = dict(zip(self.job.tasks, meter.means()))
        self._check_finite(epoch, losses)
        return {"learning_rate": rate, **{f"train/{head}/loss": loss for head, loss in losses.items()}}

    def step(self, batch: Batch, rate: float) -> tuple[Tensor, Tensor]:
        """One step of the optimizer; gives the sums of losses and numbers of labels by head."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums, counts = self.losses(self.model, batch)
        # The mean is over the labels of all processes, and DDP averages gradients over processes.
        everywhere = self.accelerator.reduce(counts, "sum").clamp(min=1)
        loss = (sums * self._weights / everywhere).sum() * self.accelerator.num_processes
        self.accelerator.backward(loss)
        clip = self.job.settings.schedule.clip_grad_norm
        if clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sums, counts

    def losses(
        self, model: nn.Module, batch: Batch, metrics: dict[str, MetricCollection] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs a batch: sums of losses and numbers of labels by head, (heads,) each.

        Args:
            model: to run.
            batch: of images or clips.
            metrics: by head; they are told of the labels that are there.
        """
        views = batch.images.to(self.accelerator.device, non_blocking=True)
        with self.accelerator.autocast():
            outputs = run_views(model, views, self.job.tasks)
        sums, counts = [], []
        for head, output in outputs.items():
            task, targets = self.job.tasks[head], self._targets(head, batch)
            valid = task.valid(targets)
            sums.append(task.losses(output, targets).sum())
            counts.append(valid.sum())
            if metrics is not None and len(there := targets[valid]):
                metrics[head].update(*task.comparable(output[valid], there))
        return torch.stack(sums), torch.stack(counts)

    # Evaluation

    @torch.no_grad()
    def evaluate(self) -> Row:
        """Losses and metrics of the held-out split."""
        model = self.accelerator.unwrap_model(self.model).eval()
        device = self.accelerator.device
        from torchmetrics import MetricCollection

        metrics = {
            head: MetricCollection({**task.metrics()}, compute_groups=False).to(device)
            for head, task in self.job.tasks.items()
        }
        meter = self._meter()
        for batch in self.val_batches:
            meter.add(*self.losses(model, batch, metrics))
        row = {f"val/{head}/loss": loss for head, loss in zip(self.job.tasks, meter.means())}
        with warnings.catch_warnings():  # this process may have seen no label where others did
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            for head, collection in metrics.items():
                row |= {f"val/{head}/{name}": float(x) for name, x in collection.compute().items()}
        return row

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
        """The targets of a batch on the device; unreadable files have none."""
        task, targets = self.job.tasks[head], self.job.targets[head][batch.rows]
        if batch.errors:
            self._note_bad(batch.errors)
            targets[batch.bad] = task.missing
        return targets.to(self.accelerator.device, non_blocking=True)

    def _note_bad(self, errors: list[str]) -> None:
        if self.job.settings.data.on_bad_image == "error":
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

    def _check_finite(self, epoch: int, losses: dict[str, float]) -> None:
        for head, loss in losses.items():
            if not math.isfinite(loss):
                raise OperationError(
                    f"the loss of head {head!r} is {loss} in epoch {epoch + 1}: try a lower "
                    f"schedule.learning_rate, a longer warmup_epochs, or clip_grad_norm"
                )
