"""A run from start to finish: started, resumed, watched and written down."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console
from torch import Tensor, nn

from classy_vision.config import ConfigError, OperationError
from classy_vision.data.config import FolderConfig
from classy_vision.data.sources import Records, read_listing, write_listing
from classy_vision.models import ClassyModel, build_model
from classy_vision.train.batches import Samples, make_loader
from classy_vision.train.config import TrainConfig
from classy_vision.train.display import Display
from classy_vision.train.engine import Engine, StoppedError
from classy_vision.train.figures import draw_curves, draw_predictions
from classy_vision.train.initial import load_initial
from classy_vision.train.job import Job, prepare, trunk_parts
from classy_vision.train.optimizer import learning_rate, make_optimizer, restore_optimizer
from classy_vision.train.plan import plan
from classy_vision.train.run_folder import CURVES, LISTING, PREDICTIONS, TENSORBOARD, Row, RunFolder
from classy_vision.train.sync_norm import sync_batch_norm
from classy_vision.train.units import standardize, to_units
from classy_vision.train.views import run_views

SHOWN = 24
"""Images or videos in predictions.png."""
TERMINATED = 128 + signal.SIGTERM
"""The exit code of a process that SIGTERM ended."""
CHANGEABLE = ("schedule.epochs", "schedule.workers")
"""What may be changed when a run is resumed."""


def train(settings: TrainConfig, output: str | Path, force: bool = False) -> Row:
    """Trains a model as ``settings`` say, and leaves a run folder.

    Args:
        settings: the job.
        output: the run folder, made here.
        force: replace a run that is there.

    Returns:
        What was measured in the last epoch.

    Raises:
        ConfigError: something does not fit, cannot be read or cannot be written.
        OperationError: the loss is not finite, or a process that reads files was killed.
        SystemExit: the process was asked to end by SIGTERM; what was done until then is saved.
    """
    folder = RunFolder(Path(output))
    with _locked(folder):
        if _is_first():
            folder.check_free(force)
        job = prepare(settings)
        accelerator = _accelerator(job)
        model = _initial_model(job)  # wrong weights are found before a run is replaced
        if accelerator.is_main_process:
            folder.create(job.settings, force)
            _write_listing(job, folder)
        accelerator.wait_for_everyone()
        try:
            return _run(job, folder, accelerator, model, None)
        except ConfigError:
            if accelerator.is_main_process:
                folder.discard()
            raise


def resume(output: str | Path, overrides: Iterable[str] = ()) -> Row:
    """Goes on with a run where it was stopped, to the numbers it would have had.

    Args:
        output: the run folder.
        overrides: "schedule.epochs=30" trains a run for longer than was planned, also a finished one;
            "schedule.workers=2" changes no numbers.

    Raises:
        ConfigError: this is no run folder, the run is finished, its data have changed, or something
            else is to be changed.
        OperationError, SystemExit: as for ``train``.
    """
    folder, overrides = RunFolder(Path(output)), tuple(overrides)
    for override in overrides:
        if override.partition("=")[0] not in CHANGEABLE:
            raise ConfigError(
                f"--set {override}: a run that is resumed can change only {' and '.join(CHANGEABLE)}"
            )
    planned, settings = folder.settings(), folder.settings(overrides)
    with _locked(folder):
        _check_unfinished(folder, settings)
        state, damage = folder.read_checkpoint()
        _check_epochs(folder, settings, state)
        job = prepare(settings, _listed(folder, settings))
        accelerator = _accelerator(job)
        if state is not None and state["data"] != job.fingerprint():
            raise ConfigError(
                f"the {settings.data.unit}s or labels of {str(output)!r} have changed since it was stopped"
            )
        model = _initial_model(job) if state is None else _stopped_model(job, state)
        notes = [_gone_back(damage, state)] if damage and state else []
        if folder.finished or planned.schedule.epochs != settings.schedule.epochs:
            notes.append(_longer(job, state))
        accelerator.wait_for_everyone()  # until all have read what is changed now
        if accelerator.is_main_process:
            folder.sweep()
            if damage:
                folder.go_back()
            if folder.finished or planned != settings:
                folder.reopen(job.settings)
        return _run(job, folder, accelerator, model, state, notes)


def _write_listing(job: Job, folder: RunFolder) -> None:
    """Files may vanish from a folder where unreadable ones are skipped: the run keeps their rows."""
    data = job.settings.data
    if isinstance(data, FolderConfig) and data.on_bad_image == "skip":
        folder.write(LISTING, write_listing(job.records, data))


def _listed(folder: RunFolder, settings: TrainConfig) -> Records | None:
    path = folder.path / LISTING
    return (
        read_listing(path, settings.data)
        if isinstance(settings.data, FolderConfig) and path.is_file()
        else None
    )


def _is_first() -> bool:
    """Whether this is the process that writes, before the processes know each other."""
    return os.environ.get("RANK", "0") == "0"


def _locked(folder: RunFolder) -> AbstractContextManager[None]:
    return folder.locked() if _is_first() else nullcontext()


def _check_unfinished(folder: RunFolder, settings: TrainConfig) -> None:
    if not folder.finished:
        return
    done, where = folder.epochs_done(), str(folder.path)
    if done == settings.schedule.epochs:
        raise ConfigError(
            f"{where!r} is finished: all {done} epochs are done; to train it for longer: "
            f"classy train --resume {where} --set schedule.epochs={2 * done}"
        )
    if not folder.has_checkpoint:
        raise ConfigError(
            f"{where!r} is finished after {done} epochs and has no checkpoint to go on from, as runs of "
            f"earlier versions; another run can begin with its weights: --set weights={where}"
        )


def _check_epochs(folder: RunFolder, settings: TrainConfig, state: dict[str, Any] | None) -> None:
    epochs = settings.schedule.epochs
    done = len(state["history"]) if state else 0
    begun = done + bool(state and state["progress"])
    if epochs < begun:
        raise ConfigError(
            f"schedule.epochs = {epochs}, but epoch {begun} of {str(folder.path)!r} is "
            f"{'done' if begun == done else 'begun'}: give at least {begun}"
        )


def _gone_back(damage: str, state: dict[str, Any]) -> str:
    done = len(state["history"])
    step = f" and {state['progress']['step']} steps" if state["progress"] else ""
    return f"{damage}. The checkpoint before it is whole: going on after {done} epochs{step}"


def _longer(job: Job, state: dict[str, Any] | None) -> str:
    """What becomes of the learning rate, which depends on the number of epochs."""
    schedule, done = job.settings.schedule, len(state["history"]) if state else 0
    steps = len(job.records.rows(held_out=False)) // schedule.batch_size
    first = done * steps + (state["progress"]["step"] if state and state["progress"] else 0)
    return (
        f"training goes on after {done} epochs to {schedule.epochs}: from here on the learning rate is that "
        f"of a run of {schedule.epochs} epochs, which is {learning_rate(schedule, first, steps):.1e} now"
    )


def _accelerator(job: Job) -> Accelerator:
    schedule = job.settings.schedule
    AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in this process
    accelerator = Accelerator(
        mixed_precision=schedule.mixed_precision,
        cpu=not torch.cuda.is_available(),
    )
    if schedule.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"schedule.batch_size = {schedule.batch_size} is shared by {accelerator.num_processes} "
            f"processes, so it must be a multiple of that"
        )
    return accelerator


def _run(
    job: Job,
    folder: RunFolder,
    accelerator: Accelerator,
    model: ClassyModel,
    state: dict[str, Any] | None,
    notes: Iterable[str] = (),
) -> Row:
    engine = _engine(job, model, accelerator, state)
    for note in (job.records.note, *notes):
        if note:
            engine.display.line(note)
    try:
        with _killed_workers(job, folder):
            row = _run_epochs(job, folder, engine, model, state)
    finally:
        engine.close()
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # DDP goes before its process group: the last one waits with the GIL held
    accelerator.end_training()
    if row is None:
        raise SystemExit(TERMINATED)
    return row


def _run_epochs(
    job: Job, folder: RunFolder, engine: Engine, model: ClassyModel, state: dict[str, Any] | None
) -> Row | None:
    """The last epoch's row; None where the run was asked to end, and can be gone on with."""
    first = engine.accelerator.is_main_process
    history: list[Row] = list(state["history"]) if state else []
    progress = state["progress"] if state else None
    wanted = job.settings.tensorboard and first
    logger = _tensorboard(folder.path / TENSORBOARD, len(history)) if wanted else nullcontext(None)
    for line in plan(job, model, engine.accelerator.device, engine.accelerator.num_processes):
        engine.display.line(line)
    with _terminating() as engine.is_stopping, engine.display.running(), logger as log:
        for epoch in range(len(history), job.settings.schedule.epochs):
            try:
                history.append(engine.run_epoch(epoch, progress))
            except StoppedError as stopped:
                if first:
                    folder.write_checkpoint(_state(engine, model, history, stopped.progress))
                engine.display.line(f"stopped; go on with: classy train --resume {folder.path}")
                return None
            progress = None
            if first:
                folder.write_checkpoint(_state(engine, model, history, None))
                folder.write_history(history)
            if log:
                log(history[-1])
    if first:
        _finish(job, folder, model, history, engine.accelerator.device)
        engine.display.line(f"the run is in {folder.path}")
    return history[-1]


@contextmanager
def _terminating() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGTERM came, which ends nothing by itself meanwhile."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # others are not told of signals
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _killed_workers(job: Job, folder: RunFolder) -> Iterator[None]:
    """Turns what torch says of a reading process that was killed into one message."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        said = re.search(r"killed by signal: (\w[\w ]*)", f"{error} {error.__cause__ or error.__context__}")
        how = f" ({said[1].strip()})" if said else ""
        more = f". Go on with: classy train --resume {folder.path}" if folder.has_checkpoint else ""
        raise OperationError(
            f"a process that reads {job.settings.data.unit}s was killed{how}: memory may have run out, which "
            f"fewer schedule.workers need less of{more}"
        ) from None


# -- the model


def _initial_model(job: Job) -> ClassyModel:
    torch.manual_seed(job.settings.schedule.seed)
    model = build_model(job.settings.model)
    if job.settings.weights is not None:
        model.loaded = load_initial(model, job.settings.weights, job.tasks)
        standardize(model, job.tasks, {*job.tasks} - {*model.loaded.kept})
    _freeze(job, model)
    return model


def _stopped_model(job: Job, state: dict[str, Any]) -> ClassyModel:
    model = build_model(job.settings.model)
    _freeze(job, model)
    model.load_state_dict(state["model"])
    return model


def _freeze(job: Job, model: ClassyModel) -> None:
    if job.settings.schedule.freeze_trunk:
        for part in trunk_parts(model):
            part.requires_grad_(False)


def _make_quick(model: ClassyModel, job: Job) -> None:
    """Its layout in memory, and the compiler; keys and, but for rounding, numbers stay."""
    schedule, safe = job.settings.schedule, _is_safe_with_channels_last(model)
    if schedule.channels_last and safe and not any(p.dim() == 5 for p in model.parameters()):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if schedule.compile:
        # The compiler lays out images as it likes.
        model.compile(options=None if safe else {"layout_optimization": False})


def _is_safe_with_channels_last(model: ClassyModel) -> bool:
    """Whether oneDNN can train it so: on processors with AVX2 and no AVX-512, oneDNN 3.12 writes the
    gradients of strided 1x1 weights of less than 8 input channels beyond their memory."""
    return not any(
        isinstance(part, nn.Conv2d)
        and part.weight.device.type == "cpu"
        and part.kernel_size == (1, 1) != part.stride
        and part.in_channels < 8
        for part in model.modules()
    )


def _engine(job: Job, model: ClassyModel, accelerator: Accelerator, state: dict[str, Any] | None) -> Engine:
    device, world, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    if world > 1:
        sync_batch_norm(model, device)
    model.to(device)
    _make_quick(model, job)
    if state:
        optimizer = restore_optimizer(model, job.settings.schedule, state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
    else:
        optimizer = make_optimizer(model, job.settings.schedule)
    pin = device.type == "cuda"
    return Engine(
        job,
        accelerator,
        accelerator.prepare_model(model),
        accelerator.prepare_optimizer(optimizer),
        make_loader(job, False, rank, world, pin),
        make_loader(job, True, rank, world, pin),
        Display(job.tasks, job.settings.schedule.epochs, Console(quiet=rank > 0), job.settings.data.unit),
    )


def _state(
    engine: Engine, model: nn.Module, history: list[Row], progress: dict[str, Any] | None
) -> dict[str, Any]:
    scaler = engine.accelerator.scaler
    return {
        "model": model.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "history": history,
        "data": engine.job.fingerprint(),
        "progress": progress,
    }


# -- what is left behind


@contextmanager
def _tensorboard(path: Path, done: int) -> Iterator[Callable[[Row], None]]:
    """Gives a function that logs an epoch; what was logged after ``done`` epochs is replaced."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(path), purge_step=done + 1)

    def log(row: Row) -> None:
        for name, value in row.items():
            writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    with closing(writer):
        yield log


def _finish(job: Job, folder: RunFolder, model: ClassyModel, history: list[Row], device: torch.device) -> None:
    """Writes the figures, and last of all the weights, which make the run finished."""
    to_units(model, job.tasks)
    folder.write_history(history)
    folder.write(CURVES, draw_curves(history, job))
    rows = job.records.rows(held_out=True)
    shown = rows[:: max(1, len(rows) // SHOWN)][:SHOWN]
    folder.write(PREDICTIONS, draw_predictions(job, shown, _outputs(job, model, shown, device)))
    folder.finish(model)


@torch.no_grad()
def _outputs(job: Job, model: nn.Module, rows: list[int], device: torch.device) -> dict[str, Tensor]:
    """What the model says of ``rows``, by head, on the CPU."""
    samples, model = Samples(job, augment=False), model.eval()
    said = [run_views(model, samples[0, row][1][None].to(device), job.tasks) for row in rows]
    return {head: torch.cat([one[head].cpu() for one in said]) for head in job.tasks}
