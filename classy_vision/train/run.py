"""A run from start to finish: started, resumed, watched and written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from rich.console import Console
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel, build_model
from classy_vision.train.batches import Samples, make_loader
from classy_vision.train.config import TrainConfig
from classy_vision.train.display import Display
from classy_vision.train.engine import Engine
from classy_vision.train.figures import draw_curves, draw_predictions
from classy_vision.train.initial import load_initial
from classy_vision.train.job import Job, prepare, trunk_parts
from classy_vision.train.optimizer import make_optimizer, restore_optimizer
from classy_vision.train.plan import plan
from classy_vision.train.run_folder import CURVES, PREDICTIONS, TENSORBOARD, Row, RunFolder
from classy_vision.train.sync_norm import sync_batch_norm
from classy_vision.train.units import standardize, to_units
from classy_vision.train.views import run_views

SHOWN = 24
"""Images or videos in predictions.png."""


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
    """
    job = prepare(settings)
    folder = RunFolder(Path(output))
    accelerator = _accelerator(job)
    model = _initial_model(job)  # wrong weights are found before a run is replaced
    if accelerator.is_main_process:
        folder.create(job.settings, force)
    accelerator.wait_for_everyone()
    try:
        return _run(job, folder, accelerator, model, None)
    except ConfigError:
        if accelerator.is_main_process:
            folder.discard()
        raise


def resume(output: str | Path) -> Row:
    """Goes on with a run after its last whole epoch, to the numbers it would have had.

    Raises:
        ConfigError: this is no run folder, the run is finished, or its data have changed.
    """
    folder = RunFolder(Path(output))
    settings = folder.settings()
    if folder.finished:
        raise ConfigError(f"{str(output)!r} is finished: all {settings.schedule.epochs} epochs are done")
    job = prepare(settings)
    accelerator = _accelerator(job)
    if accelerator.is_main_process:
        folder.sweep()
    state = folder.read_checkpoint()
    if state is None:
        return _run(job, folder, accelerator, _initial_model(job), None)
    if state["data"] != job.fingerprint():
        raise ConfigError(
            f"the {settings.data.unit}s or labels of {str(output)!r} have changed since it was stopped"
        )
    model = build_model(job.settings.model)
    _freeze(job, model)
    model.load_state_dict(state["model"])
    return _run(job, folder, accelerator, model, state)


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
    job: Job, folder: RunFolder, accelerator: Accelerator, model: ClassyModel, state: dict[str, Any] | None
) -> Row:
    row = _run_epochs(job, folder, accelerator, model, state)
    accelerator.wait_for_everyone()
    accelerator.free_memory()  # DDP goes before its process group: the last one waits with the GIL held
    accelerator.end_training()
    return row


def _run_epochs(
    job: Job, folder: RunFolder, accelerator: Accelerator, model: ClassyModel, state: dict[str, Any] | None
) -> Row:
    engine = _engine(job, model, accelerator, state)
    history: list[Row] = list(state["history"]) if state else []
    wanted = job.settings.tensorboard and accelerator.is_main_process
    logger = _tensorboard(folder.path / TENSORBOARD, len(history)) if wanted else nullcontext(None)
    if job.records.note:
        engine.display.line(job.records.note)
    for line in plan(job, model, accelerator.device, accelerator.num_processes):
        engine.display.line(line)
    with engine.display.running(), logger as log:
        for epoch in range(len(history), job.settings.schedule.epochs):
            history.append(engine.run_epoch(epoch))
            if accelerator.is_main_process:
                folder.write_checkpoint(_state(engine, model, history))
                folder.write_history(history)
            if log:
                log(history[-1])
    if accelerator.is_main_process:
        _finish(job, folder, model, history, accelerator.device)
        engine.display.line(f"the run is in {folder.path}")
    return history[-1]


# -- the model


def _initial_model(job: Job) -> ClassyModel:
    torch.manual_seed(job.settings.schedule.seed)
    model = build_model(job.settings.model)
    if job.settings.weights is not None:
        model.loaded = load_initial(model, job.settings.weights, job.tasks)
        standardize(model, job.tasks, {*job.tasks} - {*model.loaded.kept})
    _freeze(job, model)
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


def _state(engine: Engine, model: nn.Module, history: list[Row]) -> dict[str, Any]:
    scaler = engine.accelerator.scaler
    return {
        "model": model.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else None,
        "history": history,
        "data": engine.job.fingerprint(),
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
