"""Training from start to finish, read from top to bottom: prepare, then epochs of steps, validation, saving."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain, count, islice, pairwise, repeat
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import TaskID
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from classy_vision.config import ConfigError, OperationError
from classy_vision.data.batches import Batch, EpochBatches, Sample, make_loader, start_workers
from classy_vision.models import ClassyModel
from classy_vision.run_files import ADAPTER, CURVES, PREDICTIONS
from classy_vision.train.adapters import merge_adapters, merged_state, write_adapter, write_adapter_heads
from classy_vision.train.averaging import collecting, find_norms, make_average
from classy_vision.train.best import (
    describe_best,
    describe_stopped,
    find_best,
    find_stopped,
    have_all_stopped,
    is_over,
)
from classy_vision.train.config import TrainConfig
from classy_vision.train.display import Display, describe_job, describe_longer, describe_return
from classy_vision.train.draws import GlobalDraws, seed_step
from classy_vision.train.feature_cache import (
    FeatureCache,
    OnFeatures,
    Progress,
    StoredFeatures,
    describe_changes,
    wants_cache,
)
from classy_vision.train.feature_store import CacheError
from classy_vision.train.job import Job, name_frozen, prepare
from classy_vision.train.metrics import Metric
from classy_vision.train.mixing import Mixture
from classy_vision.train.model import build_initial, build_stopped, find_heads, freeze, speed_up, stop_heads
from classy_vision.train.optimizer import WITHOUT_RATES, learning_rate, make_optimizer, restore_optimizer
from classy_vision.train.processes import (
    LEAST,
    FlagReader,
    LossMeter,
    StepFlags,
    catch_sigterm,
    explain_killed_workers,
    gather_rows,
    is_first,
    lock,
    make_accelerator,
)
from classy_vision.train.run_folder import NOWHERE, Row, RunFolder, check_resumable
from classy_vision.train.sharding import (
    check_parameters,
    gather_state,
    shard_model,
    wants_sharding,
    write_shards,
)
from classy_vision.train.shards import read_whole
from classy_vision.train.sync_norm import sync_batch_norm
from classy_vision.train.tasks import run_views, to_units
from classy_vision.train.trackers import start_trackers
from classy_vision.train.weighting import backward_upgrad, make_log_variances, penalise, weigh

if find_spec("matplotlib") is None:  # which draws at the end, and takes memory from when it is imported
    raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

REHEARSED = 4
"""Batches of each split that a dry run tries."""
SHOWN = 24
"""Images or videos in predictions.png."""
NOTHING = Batch(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0), [])
"""The batch of a process that has no rows left."""
SHARED = "the processes share parameters, gradients and what the optimizer keeps, by FSDP2"
TERMINATED = 128 + signal.SIGTERM
"""The exit code of a process that SIGTERM ended."""


def train(settings: TrainConfig, output: str | Path, force: bool = False) -> Row:
    """Trains a model as ``settings`` say, and leaves a run folder.

    Args:
        settings: the job.
        output: the run folder, which is created.
        force: replace a run that is there.

    Returns:
        What was measured in the epoch that the run gives: the last one, unless ``schedule.best`` is set.

    Raises:
        ConfigError: something does not fit, cannot be read or cannot be written.
        OperationError: the loss is not finite, or a process that reads files was killed.
        SystemExit: the process was asked to end by SIGTERM; what was done until then is saved.
    """
    folder = RunFolder(Path(output))
    with lock(folder):
        if is_first():
            folder.check_free(force)
        job = prepare(settings)
        accelerator = make_accelerator(job, folder)
        model = build_initial(job.settings, job.tasks)  # Wrong weights are found before a run is replaced.
        check_parameters(model, accelerator.num_processes)
        job = name_frozen(job, model)
        wants_cache(job, model)  # which raises where that cannot be
        if accelerator.is_main_process:
            folder.create(job.settings, force)
            folder.write_listing(job.settings, job.records)
        accelerator.wait_for_everyone()
        try:
            return _run(job, folder, accelerator, model)
        except ConfigError:
            if accelerator.is_main_process:
                folder.discard()
            raise


def resume(output: str | Path, overrides: Iterable[str] = ()) -> Row:
    """Continues a run where it was stopped, to the numbers it would have had.

    Args:
        output: the run folder.
        overrides: "schedule.epochs=30" trains a run for longer than was planned, also a finished one;
            "schedule.workers=2" changes no numbers.

    Raises:
        ConfigError: this is not a run folder, the run is finished, its data have changed, or something
            else is to be changed.
        OperationError, SystemExit: as for ``train``.
    """
    folder = RunFolder(Path(output))
    planned, settings = folder.settings(), folder.settings_to_resume(overrides)
    with lock(folder):
        state, damage = check_resumable(folder, settings)
        job = prepare(settings, folder.read_listing(settings))
        accelerator = make_accelerator(job, folder)
        if state is not None and state["data"] != job.fingerprint():
            raise ConfigError(
                f"the {settings.data.unit}s or labels of {str(output)!r} have changed since it was stopped"
            )
        model = build_stopped(job.settings, state) if state else build_initial(job.settings, job.tasks)
        check_parameters(model, accelerator.num_processes)
        wants_cache(job, model)
        notes = [describe_return(damage, state)] if damage and state else []
        if folder.finished or planned.schedule.epochs != settings.schedule.epochs:
            notes.append(describe_longer(job, state))
        accelerator.wait_for_everyone()  # until all processes have read what is changed now
        if accelerator.is_main_process:
            folder.sweep()
            if damage:
                folder.go_back()
            if folder.finished or planned != settings:
                folder.reopen(job.settings)
        return _run(job, folder, accelerator, model, state, notes)


def _run(
    job: Job,
    folder: RunFolder,
    accelerator: Accelerator,
    model: ClassyModel,
    state: dict[str, Any] | None = None,
    notes: Iterable[str] = (),
) -> Row:
    """Trains ``model`` from a checkpoint, or from the start, to the last epoch."""
    history: list[Row] = list(state["history"]) if state else []
    schedule = job.settings.schedule
    progress = state["progress"] if state else None
    trainer = Trainer.make(job, accelerator, model, state)
    start_trackers(accelerator, job.settings, folder.path, len(history))
    trainer.display.lines(filter(None, (job.records.note, *notes)))
    stopped = False
    with closing(trainer), explain_killed_workers(job, folder):
        trainer.display.lines(describe_job(job, model, accelerator.device, accelerator.num_processes))
        trainer.display.lines(filter(None, (describe_changes(job, model), SHARED if trainer.sharded else "")))
        with catch_sigterm() as trainer.is_stopping, trainer.display.running():
            for epoch in range(len(history), schedule.epochs):
                if is_over(schedule, history) or have_all_stopped(job.settings, history):
                    break
                trainer.stopped = find_stopped(job.settings.tasks, history, schedule)
                try:
                    history.append(trainer.run_epoch(epoch, progress))
                    progress = None
                    trainer.display.lines(describe_stopped(job.settings, history))
                except StoppedError as error:
                    stopped, progress = True, error.progress
                best = find_best(schedule, history)
                if schedule.best and not stopped and best == len(history) - 1:
                    trainer.save_best(folder)
                trainer.save(folder, history, progress)
                if stopped:
                    trainer.display.line(f"stopped; resume with: classy train --resume {folder.path}")
                    break
                if accelerator.is_main_process:
                    folder.write_history(history, best)
                accelerator.log(history[-1], step=epoch + 1)
        if not stopped:
            _finish(trainer, folder, history)
            trainer.display.lines([*describe_best(schedule, history), f"the run is in {folder.path}"])
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # DDP goes before its process group: the last one waits with the GIL held.
    accelerator.end_training()
    if stopped:
        raise SystemExit(TERMINATED)
    return history[find_best(schedule, history)]


@contextmanager
def rehearsing(settings: TrainConfig) -> Iterator[Trainer]:
    """Gives the trainer of a job at its start; nothing is written.

    Raises:
        ConfigError: something does not fit.
    """
    job = prepare(settings.model_copy(update={"tensorboard": False, "trackers": ()}))
    accelerator = make_accelerator(job, NOWHERE)
    model = build_initial(job.settings, job.tasks)
    check_parameters(model, accelerator.num_processes)
    trainer = Trainer.make(name_frozen(job, model), accelerator, model, None)
    with closing(trainer), explain_killed_workers(job, NOWHERE):
        yield trainer
    accelerator.free_memory()


class StoppedError(Exception):
    """The run was asked to end; ``progress`` is what it takes to continue within the epoch."""

    def __init__(self, progress: dict[str, Any]) -> None:
        super().__init__("stopped")
        self.progress = progress


@dataclass
class Trainer:
    """The model, the optimizer and the batches of a run, and its epochs.

    Attributes:
        job: what is trained.
        accelerator: the processes and devices.
        network: the model.
        model: the same as the accelerator wraps it.
        optimizer: as the accelerator wraps it.
        average: of the weights, where the schedule wants one.
        log_variances: (heads,), where the schedule learns how much each loss counts.
        order: of the training batches.
        train_batches, val_batches: of this process.
        display: shows the progress.
        sharded: whether the processes share one copy of the parameters.
        cache: of the features of a frozen trunk, as long as they are not read.
        features: what is read in place of images.
        bad: messages about unreadable files that were skipped.
        stopped: the heads that do not learn any more.
        is_stopping: whether this process was asked to end.
    """

    job: Job
    accelerator: Accelerator
    network: ClassyModel
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    log_variances: nn.Parameter | None
    order: EpochBatches
    train_batches: DataLoader[Sample]
    val_batches: DataLoader[Sample]
    display: Display
    sharded: bool = False
    cache: FeatureCache | None = None
    features: StoredFeatures | None = None
    bad: set[str] = field(default_factory=set)
    stopped: Collection[str] = ()
    is_stopping: Callable[[], bool] = lambda: False

    @classmethod
    def make(
        cls, job: Job, accelerator: Accelerator, model: ClassyModel, state: dict[str, Any] | None
    ) -> Trainer:
        """Puts the model on its device, and makes or restores the optimizer."""
        device, schedule = accelerator.device, job.settings.schedule
        sharded = accelerator.num_processes > 1 and wants_sharding()
        if accelerator.num_processes > 1:
            sync_batch_norm(model, device)
        average = _place(model, job, device, sharded, state)
        log_variances = make_log_variances(schedule, job.tasks, device)
        freeze(model, schedule, schedule.epochs - 1)  # the optimizer has all that will ever learn
        if state:
            if log_variances is not None:
                log_variances.data.copy_(state["log_variances"])
            optimizer = restore_optimizer(model, schedule, state["optimizer"], log_variances)
            if accelerator.scaler is not None:
                accelerator.scaler.load_state_dict(state["scaler"])
        else:
            optimizer = make_optimizer(model, schedule, log_variances)
        cache = FeatureCache(job, accelerator, model) if not sharded and wants_cache(job, model) else None
        prepared = (
            model if sharded else accelerator.prepare_model(OnFeatures(model) if cache else model),
            accelerator.prepare_optimizer(optimizer),
        )
        freeze(model, schedule, len(state["history"]) if state else 0)
        order, train_batches = make_batches(job, accelerator, held_out=False)
        val_order, val_batches = make_batches(job, accelerator, held_out=True)
        start_workers(val_order, val_batches)
        console = Console(quiet=accelerator.process_index > 0)
        return cls(
            job,
            accelerator,
            model,
            *prepared,
            average,
            log_variances,
            order,
            train_batches,
            val_batches,
            Display(job.tasks, schedule.epochs, console, job.settings.data.unit),
            sharded,
            cache,
        )

    def state(self, history: list[Row], progress: dict[str, Any] | None) -> dict[str, Any]:
        """What a checkpoint holds."""
        scaler = self.accelerator.scaler
        averaged, learned = self.average_state(), self.log_variances
        return {
            **({"average": averaged} if averaged else {}),
            **({} if learned is None else {"log_variances": learned.detach().clone()}),
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "history": history,
            "data": self.job.fingerprint(),
            "progress": progress,
        }

    def save(self, folder: RunFolder, history: list[Row], progress: dict[str, Any] | None) -> None:
        """Writes a checkpoint: the first process does, or each its own part of what they share."""
        main = self.accelerator.is_main_process
        state = self.state(history, progress) if main or self.sharded else {}
        if self.sharded:
            state = write_shards(state, folder, self.accelerator)
        if main:
            folder.write_checkpoint(state)

    def save_best(self, folder: RunFolder) -> None:
        """Writes the weights of ``result``, as a model without adapters has them."""
        result = self.whole_result()
        if self.accelerator.is_main_process:
            adapted = self.job.settings.schedule.lora is not None
            folder.write_best(merged_state(result) if adapted else result.state_dict())
            if adapted:
                write_adapter(folder.path / ADAPTER, result)

    def run_epoch(self, epoch: int, progress: Mapping[str, Any] | None = None) -> Row:
        """Trains and evaluates, and gives what was measured.

        Args:
            epoch: counted from 0.
            progress: of an epoch that was stopped.

        Raises:
            ConfigError: a file is unreadable.
            OperationError: the loss is not a finite number.
            StoppedError: some process was asked to end.
        """
        done, before = (progress["step"], progress["seconds"]) if progress else (0, 0.0)
        steps, unit = len(self.train_batches), self.job.settings.data.unit
        bar = self.display.start(epoch, steps, done)
        started = time.monotonic() - before
        meter = self._make_meter()
        if progress:
            meter.restore(progress)
        if not self._open_features(epoch):
            raise _stop(done, meter, started)
        rate = self._train(epoch, bar, meter, done, started)
        row = {"epoch": epoch + 1, "learning_rate": rate, **self._name_losses("train", meter)}
        row |= self._name_weights()
        row[f"{unit}s_per_second"] = steps * self._batch_size / (time.monotonic() - started)
        measured = self._evaluate() if self._average_epoch(epoch) else None
        if measured is None:
            raise _stop(steps, meter, started)
        row |= measured
        row["seconds"] = time.monotonic() - started
        self.display.end(bar, row)
        self._report_bad()
        return row

    def _open_features(self, epoch: int) -> bool:
        """Computes the features of a frozen trunk that are not on disk, and reads them from now on.

        Returns:
            False if some process was asked to end.

        Raises:
            ConfigError: a file is unreadable, or the features that the schedule demands cannot be kept.
        """
        if self.cache is None:
            return True
        self._begin(epoch)
        progress = Progress(
            self.is_stopping,
            self._check_files,
            self.display.start_features,
            self.display.advance,
            self.display.line,
        )
        found, wrong = None, ""
        try:
            found = self.cache.fill(progress)
        except CacheError as error:
            if self.job.settings.schedule.cache_features is True:
                raise
            wrong = str(error)
        self.display.end_features()
        if self._sum(found is None and not wrong):
            return False
        if not self._sum(bool(wrong)) and found is not None:
            self._use(found)
        elif wrong:
            self.display.line(f"the frozen trunk runs in every epoch: {wrong}")
        self.cache = None
        return True

    def _use(self, features: StoredFeatures) -> None:
        """Reads features in place of images."""
        self.close()
        self.features = features
        for part in self.model.modules():  # below what the accelerator puts around it
            if isinstance(part, OnFeatures):
                part.stored = features
        self.order, self.train_batches = make_batches(self.job, self.accelerator, False, features)
        _, self.val_batches = make_batches(self.job, self.accelerator, True, features)

    def _wrap(self, model: ClassyModel) -> nn.Module:
        """The model as it takes what the batches have: images, or rows whose features are stored."""
        return model if self.features is None else OnFeatures(model, self.features)

    def _begin(self, epoch: int, done: int = 0) -> None:
        """Makes the model and the order ready for the steps of an epoch after the first ``done``."""
        self.order.epoch, self.order.start = epoch, done
        self.network.train()
        freeze(self.network, self.job.settings.schedule, epoch)
        self._stop_heads()
        self._switch(training=True)

    def _stop_heads(self) -> None:
        """Keeps the heads that have stopped as they were measured last."""
        heads, measured = find_heads(self.network), find_heads(self.result)
        for name in set(self.stopped) - self._detached:
            self._detached.add(name)
            heads[name].register_forward_hook(_detach)  # no gradients, for which DDP would wait
            heads[name].load_state_dict(measured[name].state_dict())  # of an average, which then stays the same
            for parameter in heads[name].parameters():
                self.optimizer.state.pop(parameter, None)  # or a schedule-free one would still move it
        stop_heads(self.network, self.stopped)

    def _find_learning(self) -> slice | list[int]:
        """The places of the heads whose losses count."""
        learning = [i for i, head in enumerate(self.job.tasks) if head not in self.stopped]
        return learning if self.stopped else slice(None)

    def _train(self, epoch: int, bar: TaskID, meter: LossMeter, done: int, started: float) -> float:
        """Makes the steps of a pass over the training split after the first ``done``; gives the last rate."""
        schedule, steps, reader = self.job.settings.schedule, len(self.train_batches), FlagReader()
        self._begin(epoch, done)
        rate = learning_rate(schedule, epoch * steps + max(0, done - 1), steps)
        for step, batch in enumerate(self.train_batches if done < steps else (), done + 1):
            rate = learning_rate(schedule, epoch * steps + step - 1, steps)
            self._check_files(batch.errors)
            sums, counts, flags = self._step(batch, epoch, step, rate)
            meter.add(sums, counts)
            stop = self._check_losses(epoch, reader.add(step, batch.rows, flags))
            self.display.step(bar, meter.local_means, step * self._batch_size / (time.monotonic() - started))
            if stop and step < steps:
                self._check_losses(epoch, reader.read_last())
                raise _stop(step, meter, started)
        self._check_losses(epoch, reader.read_last())
        return rate

    def _step(self, batch: Batch, epoch: int, step: int, rate: float) -> tuple[Tensor, Tensor, Tensor]:
        """Makes one step of the optimizer: gives sums of losses and numbers of labels by head, and flags.

        The flags (heads + 1,) count the processes where the loss of a head is not finite, and those
        that were asked to end.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        if not self._has_rows(batch):
            nothing = self._make_meter()
            return nothing.sums, nothing.counts, self._collect_flags(nothing.sums)
        sums, counts, flags = self._backward(batch, epoch, step)
        clip = self.job.settings.schedule.clip_grad_norm
        if clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None and self.job.settings.schedule.ema is not None:
            self.average.update_parameters(self.network)
        return sums, counts, flags

    def _backward(self, batch: Batch, epoch: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Adds up the gradients of a batch, which goes through the model in ``schedule.accumulate`` parts."""
        schedule = self.job.settings.schedule
        parts = batch.split(self._count_parts(batch))
        mixtures = [self._draw_mixture(part, epoch, step) for part in parts]
        wanted = torch.stack([self._count_labels(*of) for of in zip(parts, mixtures)]).sum(0)
        # The mean is over the labels of all processes, and DDP averages gradients over processes.
        everywhere = self.accelerator.reduce(wanted, "sum").clamp(min=LEAST)
        weights = self._weights / everywhere * self.accelerator.num_processes
        total = self._make_meter()
        for i, (part, mixture) in enumerate(zip(parts, mixtures)):
            seed_step(schedule.seed, epoch, step, self.accelerator.process_index if schedule.compile else None)
            last = i == len(parts) - 1
            with self._draw_globally(part), nullcontext() if last else self.accelerator.no_sync(self.model):
                sums, counts = self.losses(self.model, part, mixture=mixture)
                self._backward_losses(sums * weights, everywhere > LEAST, len(parts))
            total.add(sums, counts)
        if self.log_variances is not None:  # which DDP does not know
            self.log_variances.grad = self.accelerator.reduce(self.log_variances.grad, "mean")
        return total.sums, total.counts, self._collect_flags(total.sums)

    def _backward_losses(self, losses: Tensor, labelled: Tensor, parts: int) -> None:
        """Adds the gradients of a part of a batch to those of the parameters.

        Args:
            losses: (heads,), as much of each as falls to this part and this process.
            labelled: which heads have labels in the whole batch, (heads,).
            parts: of the batch.
        """
        schedule, learning = self.job.settings.schedule, self._find_learning()
        if schedule.loss_weighting == "upgrad":
            backward_upgrad(losses[learning], self.network)
            return
        if self.log_variances is not None:
            variances = self.log_variances
            penalty = penalise(variances[learning], labelled[learning]) / parts
            losses = torch.cat([(losses * weigh(variances, self.job.tasks))[learning], penalty[None]])
        else:
            losses = losses[learning]
        self.accelerator.backward(losses.sum())

    def losses(
        self,
        model: nn.Module,
        batch: Batch,
        metrics: dict[str, dict[str, Metric]] | None = None,
        mixture: Mixture | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Runs a batch, and gives sums of losses and numbers of labels by head, (heads,) each.

        Args:
            model: to run.
            batch: of images or clips.
            metrics: by head and name, in evaluation; they are updated with the labels that are there.
            mixture: of the images, in training.
        """
        device = self.accelerator.device
        views = batch.images.to(device, non_blocking=True)
        views = views if mixture is None else mixture.mix(views)
        with self.accelerator.autocast():
            outputs = run_views(model, views, self.job.tasks)
        sums, counts = [], []
        for head, output in outputs.items():
            task = self.job.tasks[head]
            targets = self.job.targets_of(head, batch).to(device, non_blocking=True)
            if mixture is not None:
                losses, labels = mixture.losses(task, output, targets)
            else:
                labels = valid = task.valid(targets)
                losses = (task.training_losses if metrics is None else task.losses)(output, targets)
            sums.append(losses.sum())
            counts.append(labels.sum())
            if metrics is not None and valid.any():
                comparable = task.comparable(task.convert(output[valid]), targets[valid])
                for metric in metrics[head].values():
                    metric.update(*comparable)
        return torch.stack(sums), torch.stack(counts)

    @property
    def result(self) -> ClassyModel:
        """The model that is measured and that the run gives: the average, where one is kept and has begun."""
        schedule = self.job.settings.schedule
        if self.average is None or (schedule.swa and not self.average.n_averaged):
            return self.network
        found: Any = self.average.module
        return cast(ClassyModel, found)

    def whole_result(self) -> ClassyModel:
        """``result``; where processes share it, the first gets a copy of all of it on the CPU."""
        if not self.sharded:
            return self.result
        whole = gather_state(self.result.state_dict(), self.accelerator.is_main_process)
        return build_stopped(self.job.settings, {"model": whole, "history": []}) if whole else self.result

    def _average_epoch(self, epoch: int) -> bool:
        """Adds the weights at the end of an epoch to the average of ``schedule.swa``, and finds what its batch
        norms see, or those of the average that a schedule-free optimizer keeps; False where some process was
        asked to end meanwhile."""
        schedule, average = self.job.settings.schedule, self.average
        if schedule.swa is not None and average is not None and epoch + 1 >= schedule.swa.epoch:
            if int(average.n_averaged) == epoch + 1 - schedule.swa.epoch:  # not where evaluation was stopped
                average.update_parameters(self.network)
        elif schedule.optimizer not in WITHOUT_RATES:
            return True
        self._switch(training=False)
        model = self.result.train()
        freeze(model, schedule, epoch)
        stop_heads(model, self.stopped)
        norms = find_norms(model)
        with collecting(norms):
            return not norms or self._run_through(model, epoch)

    @torch.no_grad()
    def _run_through(self, model: ClassyModel, epoch: int) -> bool:
        """Runs the training batches of an epoch as they are, not mixed; False where some process was asked to
        end."""
        schedule, reading = self.job.settings.schedule, self._wrap(model)
        self.order.start = 0
        for step, batch in enumerate(self.train_batches, 1):
            self._check_files(batch.errors)
            seed_step(schedule.seed, epoch, step)
            for part in batch.split(self._count_parts(batch)) if self._has_rows(batch) else ():
                with self._draw_globally(part), self.accelerator.autocast():
                    views = part.images.to(self.accelerator.device, non_blocking=True)
                    run_views(reading, views, self.job.tasks)
            if self._sum(int(self.is_stopping())):
                return False
        return True

    @torch.no_grad()
    def _evaluate(self) -> Row | None:
        """Measures losses and metrics of the held-out split; None where some process was asked to end."""
        metrics = {head: task.metrics() for head, task in self.job.tasks.items()}
        self._switch(training=False)
        meter, model = self._make_meter(), self._wrap(self.result).eval()
        for batch in self._read_held_out(model):
            if len(batch.rows):
                meter.add(*self.losses(model, batch, metrics))
            if self._sum(int(self.is_stopping())) if self.sharded else self.is_stopping():
                break
        if self._sum(int(self.is_stopping())):
            return None
        row = self._name_losses("val", meter)
        for head, named in metrics.items():
            for name, metric in named.items():
                found = metric.compute_all(name, lambda rows: gather_rows(self.accelerator, rows))
                row |= {f"val/{head}/{what}": value for what, value in found.items()}
        return row

    def _read_held_out(self, model: nn.Module) -> Iterator[Batch]:
        """Reads the batches of evaluation.

        Processes that share ``model`` wait for each other in it, so that one that has no rows of a batch runs
        it all the same, on a blank image.
        """
        batches: Iterable[Batch] = self.val_batches
        if self.sharded:  # of the last batch, the last processes may have nothing
            batches = islice(chain(batches, repeat(NOTHING)), len(self.val_batches))
        shape = self.job.settings.data.input_shape(self.job.channels, training=False)
        for batch in batches:
            self._check_files(batch.errors)
            if self.sharded and not len(batch.rows):
                run_views(model, torch.zeros(1, 1, *shape, device=self.accelerator.device), self.job.tasks)
            yield batch

    def rehearse(self) -> Rehearsal:
        """Runs a few batches through steps of training and through evaluation, as the first epoch does.

        Raises:
            ConfigError: a file is unreadable.
            OperationError: the loss is not a finite number.
        """
        reader, meter = FlagReader(), self._make_meter()
        self._begin(epoch=0)
        rate = learning_rate(self.job.settings.schedule, 0, len(self.train_batches))
        stopwatch = Stopwatch(len(self.train_batches))
        for step, batch in enumerate(islice(self.train_batches, REHEARSED), 1):
            self._check_files(batch.errors)
            sums, counts, flags = self._step(batch, 0, step, rate)
            self._check_losses(0, [*reader.add(step, batch.rows, flags), *reader.read_last()])
            meter.add(sums, counts)
            stopwatch.tick()
        seconds = stopwatch.estimate()
        self._switch(training=False)
        model, stopwatch = self.result.eval(), Stopwatch(len(self.val_batches))
        with torch.no_grad():
            for batch in islice(self._read_held_out(model), REHEARSED):
                if len(batch.rows):
                    self.losses(model, batch, {head: task.metrics() for head, task in self.job.tasks.items()})
                stopwatch.tick()
        return Rehearsal(dict(zip(self.job.tasks, meter.means())), seconds + stopwatch.estimate())

    def sweep(self, rates: Iterable[float]) -> Iterator[float]:
        """Makes a step at each of some learning rates, and gives its loss: the weighted sum over heads.

        Raises:
            ConfigError: a file is unreadable.
        """
        weights = [task.config.weight for task in self.job.tasks.values()]
        for rate, (epoch, step, batch) in zip(rates, self._read_epochs()):
            meter = self._make_meter()
            sums, counts, _ = self._step(batch, epoch, step, rate)
            meter.add(sums, counts)
            yield sum(weight * loss for weight, loss in zip(weights, meter.means()))

    def run_batches(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Runs training batches without a step, and gives sums of losses and numbers of labels by head."""
        seed = self.job.settings.schedule.seed
        for epoch, step, batch in islice(self._read_epochs(), count):
            mixture = self._draw_mixture(batch, epoch, step)
            seed_step(seed, epoch, step)
            yield self.losses(self.network, batch, mixture=mixture)

    def _read_epochs(self) -> Iterator[tuple[int, int, Batch]]:
        """Reads training batches without end, and gives the epoch and the step of each."""
        for epoch in count():
            self._begin(epoch)
            for step, batch in enumerate(self.train_batches, 1):
                self._check_files(batch.errors)
                yield epoch, step, batch

    def average_state(self) -> dict[str, Any]:
        """The state of the averaged weights; empty where none are kept."""
        return {} if self.average is None else self.average.state_dict()

    # What hides details

    def __post_init__(self) -> None:
        weights = [task.config.weight for task in self.job.tasks.values()]
        self._weights = torch.tensor(weights, device=self.accelerator.device)
        self._batch_size = self.job.settings.schedule.batch_size
        self._detached = set[str]()

    def close(self) -> None:
        """Ends the processes that read, also those that are stuck."""
        for loader in (self.train_batches, self.val_batches):
            iterator, loader._iterator = loader._iterator, None
            workers = list(getattr(iterator, "_workers", ()))
            del iterator  # which asks them to end
            for worker in workers:
                worker.kill()

    def _switch(self, training: bool) -> None:
        """Gives the model the weights that learn or those that are measured, where an optimizer has both."""
        if self.job.settings.schedule.optimizer in WITHOUT_RATES:
            optimizer: Any = self.optimizer
            optimizer.train() if training else optimizer.eval()

    def _draw_mixture(self, batch: Batch, epoch: int, step: int) -> Mixture | None:
        schedule = self.job.settings.schedule
        if not schedule.mixes:
            return None
        size = (batch.images.shape[-2], batch.images.shape[-1])
        return Mixture.draw(schedule, epoch, step, self._find_places(batch), size).to(self.accelerator.device)

    def _count_labels(self, batch: Batch, mixture: Mixture | None) -> Tensor:
        """How many labels of each head the losses of a batch are of, (heads,)."""
        device, counts = self.accelerator.device, []
        for head, task in self.job.tasks.items():
            targets = self.job.targets_of(head, batch).to(device, non_blocking=True)
            counts.append(task.valid(targets).sum() if mixture is None else mixture.count(task, targets).sum())
        return torch.stack(counts).float()

    def _find_places(self, batch: Batch) -> Tensor:
        """Where the rows of this process are in the global batch."""
        return batch.places + self.accelerator.process_index * (
            self._batch_size // self.accelerator.num_processes
        )

    def _make_meter(self) -> LossMeter:
        return LossMeter.make(self.accelerator, len(self.job.tasks))

    def _name_losses(self, split: str, meter: LossMeter) -> Row:
        return {f"{split}/{head}/loss": loss for head, loss in zip(self.job.tasks, meter.means())}

    def _name_weights(self) -> Row:
        """What the loss of each head counts, where that is learned."""
        if self.log_variances is None:
            return {}
        learned = (weigh(self.log_variances.detach(), self.job.tasks) * self._weights).tolist()
        weights = {head: 0.0 if head in self.stopped else w for head, w in zip(self.job.tasks, learned)}
        return {f"train/{head}/loss_weight": weight for head, weight in weights.items()}

    def _sum(self, number: int) -> int:
        """The sum of a number of each process."""
        return int(self.accelerator.reduce(torch.tensor(number, device=self.accelerator.device), "sum"))

    def _collect_flags(self, sums: Tensor) -> Tensor:
        """The flags of ``_step``, of all processes."""
        flags = torch.cat([~sums.detach().isfinite(), sums.new_full((1,), int(self.is_stopping())).bool()])
        return self.accelerator.reduce(flags.long(), "sum")

    def _has_rows(self, batch: Batch) -> bool:
        """Whether enough of the global batch is readable for batch norms to see more than one row."""
        if self.job.settings.data.on_bad_image == "error":
            return True
        return self._sum(len(batch.rows)) >= min(2, self._batch_size)

    def _count_parts(self, batch: Batch) -> int:
        """In how many parts a batch goes through the model: ``schedule.accumulate``, or fewer where rows are
        missing, so that batch norms do not see a single one."""
        parts = self.job.settings.schedule.accumulate
        if self.accelerator.num_processes > 1 or len(batch.rows) == self._batch_size:
            return parts  # as many in all processes, which wait for each other in norms
        return min(parts, max(1, len(batch.rows) // 2))

    def _draw_globally(self, batch: Batch) -> AbstractContextManager[Any]:
        """Makes random numbers those of the rows of the global batch; the compiler draws its own."""
        if self.job.settings.schedule.compile or len(batch.rows) == self._batch_size:
            return nullcontext()
        return GlobalDraws(self._find_places(batch).to(self.accelerator.device), self._batch_size)

    def _check_losses(self, epoch: int, seen: list[StepFlags]) -> bool:
        """Raises where a loss is not finite, and says whether to stop."""
        for step, rows, not_finite, _ in seen:
            if any(not_finite):
                head = next(head for head, times in zip(self.job.tasks, not_finite) if times)
                names = [self.job.records.name(row) for row in sorted(gather_object(rows.tolist()))]
                few = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
                raise OperationError(
                    f"the loss of head {head!r} is not a finite number in epoch {epoch + 1}, step {step} "
                    f"(of {few}): try a lower schedule.learning_rate, a longer warmup_epochs, or clip_grad_norm"
                )
        return any(flags.stops for flags in seen)

    def _check_files(self, errors: list[str]) -> None:
        data = self.job.settings.data
        if errors and data.on_bad_image == "error":
            raise ConfigError(
                f"{errors[0]}. Take it out of the data, or set data.on_bad_image to 'skip' to continue "
                f"without such {data.unit}s"
            )
        self.bad.update(errors)

    def _report_bad(self) -> None:
        data = self.job.settings.data
        if data.on_bad_image == "skip" and (bad := sorted(set(gather_object(sorted(self.bad))))):
            self.display.line(f"skipped {len(bad)} unreadable {data.unit}s, the first is {bad[0]}")


class Rehearsal(NamedTuple):
    """What a few batches told.

    Attributes:
        losses: means over the steps, by head.
        seconds: of an epoch with its evaluation.
    """

    losses: dict[str, float]
    seconds: float


@dataclass
class Stopwatch:
    """Estimates the seconds of ``steps`` from the first few, of which the first alone is slower.

    Attributes:
        steps: that are estimated.
        times: when it was started, and when each step had ended.
    """

    steps: int
    times: list[float] = field(default_factory=lambda: [time.monotonic()])

    def tick(self) -> None:
        """Ends a step."""
        self.times.append(time.monotonic())

    def estimate(self) -> float:
        """Seconds of all steps."""
        first, *later = (end - start for start, end in pairwise(self.times))
        return first + sum(later) / max(1, len(later)) * (self.steps - 1) if later else first * self.steps


def make_batches(
    job: Job, accelerator: Accelerator, held_out: bool, features: StoredFeatures | None = None
) -> tuple[EpochBatches, DataLoader[Sample]]:
    """Makes the batches of a split: their order, and the part of them that this process reads.

    A batch of evaluation has no more views than one of training, so that it needs no more memory.

    Args:
        job: whose.
        accelerator: of the processes.
        held_out: which split.
        features: what is read in place of images.
    """
    schedule, world = job.settings.schedule, accelerator.num_processes
    size, seed = schedule.batch_size, schedule.seed
    if held_out:
        size = max(1, size // (job.settings.data.views * world)) * world
    weights = None if held_out else job.row_weights()
    order = EpochBatches(job.records.rows(held_out), size, None if held_out else seed, weights)
    shard = BatchSamplerShard(order, world, accelerator.process_index, split_batches=True, even_batches=False)
    if features is not None:
        return order, make_loader(features.samples(held_out), shard)
    samples = job.samples(None if held_out else seed)
    pin = accelerator.device.type == "cuda"
    return order, make_loader(samples, shard, workers=schedule.workers, pin_memory=pin)


def _detach(head: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.detach()


def _stop(step: int, meter: LossMeter, started: float) -> StoppedError:
    return StoppedError({"step": step, "seconds": time.monotonic() - started, **meter.gather()})


def _place(
    model: ClassyModel, job: Job, device: torch.device, sharded: bool, state: dict[str, Any] | None
) -> AveragedModel | None:
    """Puts a model on its device, or this process's part of it, and gives the average of its weights."""
    schedule = job.settings.schedule
    if not sharded:
        model.to(device)
        speed_up(model, schedule)  # before the copy, which has the same layout
    average = make_average(model, schedule)
    if average is not None and state:
        average.load_state_dict(read_whole(state["average"]))
    if not sharded:
        return average
    for one in (model,) if average is None else (model, cast(ClassyModel, average.module)):
        shard_model(one, device)
    return average


def _finish(trainer: Trainer, folder: RunFolder, history: list[Row]) -> None:
    """Writes the figures, and last of all the weights, which make the run finished."""
    from classy_vision.train.figures import draw_curves, draw_predictions

    job, model = trainer.job, trainer.whole_result()
    if not trainer.accelerator.is_main_process:
        return
    best = find_best(job.settings.schedule, history)
    adapted = job.settings.schedule.lora is not None
    if adapted and not job.settings.schedule.best:
        write_adapter(folder.path / ADAPTER, model)
    if adapted:
        merge_adapters(model)
    if job.settings.schedule.best:
        model.load_state_dict(folder.read_best())
    to_units(model, job.tasks)
    if adapted:
        write_adapter_heads(folder.path / ADAPTER, model)
    folder.write_history(history, best)
    folder.write(CURVES, draw_curves(history, job))
    rows = job.records.rows(held_out=True)
    shown = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
    device = next(model.parameters()).device
    folder.write(PREDICTIONS, draw_predictions(job, shown, _predict(job, model, shown, device)))
    folder.finish(model)


@torch.no_grad()
def _predict(job: Job, model: nn.Module, rows: list[int], device: torch.device) -> dict[str, Tensor]:
    """What the model says of ``rows``, by head, on the CPU."""
    samples, model = job.samples(), model.eval()
    said = [run_views(model, samples[0, row].views[None].to(device), job.tasks) for row in rows]
    return {head: torch.cat([one[head].cpu() for one in said]) for head in job.tasks}
