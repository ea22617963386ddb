"""Trying a job before it is trained: its files, its memory, a few batches, and how long an epoch takes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from classy_vision.config import ConfigError, first_line
from classy_vision.cost import count
from classy_vision.cost.free_memory import find_free
from classy_vision.data.config import DataConfig
from classy_vision.data.files import count_workers
from classy_vision.data.images import ImageError, read_size
from classy_vision.models import ClassyModel
from classy_vision.text import human, list_some, size
from classy_vision.train.config import TrainConfig
from classy_vision.train.display import describe_job, duration
from classy_vision.train.job import Job, name_frozen, prepare
from classy_vision.train.model import build_initial
from classy_vision.train.processes import explain_killed_workers, is_first, make_accelerator
from classy_vision.train.run import Trainer
from classy_vision.train.run_folder import NOWHERE, RunFolder
from classy_vision.train.sharding import wants_sharding
from classy_vision.train.shards import is_shared

NAMED = 3
"""Files that a message names."""


@dataclass(frozen=True)
class Checkup:
    """What was found out about a job.

    Attributes:
        files: how many files were opened, of images, videos and labels of pixels.
        unreadable: those that cannot be opened, each with the reason.
        memory: bytes that a step of training takes, without what kernels work in.
        losses: of each head in the last step that was tried.
        seconds_per_epoch: with the evaluation, as far as a few batches tell.
        lines: all of it in words.
    """

    files: int
    unreadable: tuple[str, ...]
    memory: int
    losses: dict[str, float]
    seconds_per_epoch: float
    lines: tuple[str, ...]


def check(settings: TrainConfig, output: str | Path = "", force: bool = False) -> Checkup:
    """Tries a job without writing anything.

    Opens every file, counts labels, estimates the memory, and runs a few batches through steps of training
    and through evaluation.

    Args:
        settings: the job.
        output: the run folder that ``train`` would be given, to see whether it could be written; "" for none.
        force: as for ``train``.

    Raises:
        ConfigError: something does not fit, files cannot be read, or the memory does not suffice.
        OperationError: a loss is not finite.
    """
    folder = RunFolder(Path(output)) if output else NOWHERE
    if output and is_first():
        folder.check_free(force)
    job = prepare(settings)
    files, unreadable = _check_files(job)
    accelerator = make_accelerator(job, folder)
    model = build_initial(job.settings, job.tasks)
    job = name_frozen(job, model)
    lines = [*describe_job(job, model, accelerator.device, accelerator.num_processes), *_describe_data(job)]
    skipped = f": {list_some(unreadable, NAMED)}" if unreadable else ""
    lines.append(f"{files:,} files opened, {len(unreadable):,} unreadable{skipped}")
    taken = _estimate_memory(job, model, accelerator)
    trainer = Trainer.make(job, accelerator, model, None)
    with closing(trainer), explain_killed_workers(job, folder):
        timing = trainer.rehearse()
    state = sum(_sizes(trainer.optimizer.state_dict()["state"])) + sum(_sizes(trainer.average_state()))
    accelerator.free_memory()
    losses = ", ".join(f"{head} {loss:.3g}" for head, loss in timing.losses.items())
    memory, free = taken + state, find_free(accelerator.device)
    lines += [
        f"losses of a batch: {losses}",
        f"memory: about {human(memory)}B per step"
        + ("" if free is None else f", and {human(free)}B are free on {accelerator.device}"),
        _describe_time(job, trainer.cache is not None, timing.seconds),
    ]
    return Checkup(files, unreadable, memory, timing.losses, timing.seconds, tuple(lines))


def _describe_time(job: Job, keeps_features: bool, seconds: float) -> str:
    """Says how long training takes, of which an epoch from images takes ``seconds``."""
    if keeps_features:
        return (
            f"time: about {duration(seconds)} for the first epoch; later ones read the features that it keeps"
        )
    epochs = job.settings.schedule.epochs
    return f"time: about {duration(seconds)} per epoch, {duration(seconds * epochs)} for all {epochs}"


# -- files and labels


def _check_files(job: Job) -> tuple[int, tuple[str, ...]]:
    """Opens every file, and says which cannot be; of images the header is read, and of videos the size.

    Raises:
        ConfigError: some cannot, and ``data.on_bad_image`` does not skip them.
    """
    rows = [row for held_out in (False, True) for row in job.records.rows(held_out)]
    cells = (labels.cells[row] for labels in job.dense.values() for row in rows)
    labels = [Path(cell) for cell in cells if isinstance(cell, (str, Path))]
    files = [file for row in rows if isinstance(file := job.records.images[row], Path)]
    data = job.settings.data
    with ThreadPoolExecutor(count_workers()) as pool:
        wrong = [*pool.map(lambda file: _find_fault(file, data), files)]
        wrong += pool.map(lambda file: _find_fault(file, None), labels)
    unreadable = tuple(text for text in wrong if text)
    if unreadable and data.on_bad_image == "error":
        raise ConfigError(
            f"{len(unreadable)} of {len(wrong)} files cannot be read: {'; '.join(unreadable[:NAMED])}"
            f"{'; …' if len(unreadable) > NAMED else ''}. Take them out of the data, or set "
            f"data.on_bad_image to 'skip' to continue without them"
        )
    return len(wrong), unreadable


def _find_fault(file: Path, data: DataConfig | None) -> str:
    """What is wrong with a file; "" if nothing is. ``data`` is that of an image or a video."""
    try:
        if data is not None and data.clip:
            return "" if file.stat().st_size else f"{file}: the file is empty"
        read_size(file)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return f"{file}: {error.strerror or first_line(error)}"
    return ""


def _describe_data(job: Job) -> Iterator[str]:
    rows = job.records.rows(held_out=True)
    for head, task in job.tasks.items():
        targets = job.targets[head][rows]
        known = targets if task.dense else task.valid(targets)
        yield f"head {head!r}: {int(known.sum()):,} of {len(rows):,} held out have a label"
    shapes = [size(job.settings.data.input_shape(job.channels, training)) for training in (True, False)]
    yield f"the model sees {shapes[0]} in training and {shapes[1]} in evaluation"


# -- memory


def _estimate_memory(job: Job, model: ClassyModel, accelerator: Accelerator) -> int:
    """Bytes that the forward and the backward pass of a part of a batch take on this device.

    Raises:
        ConfigError: more than are free.
    """
    schedule, device = job.settings.schedule, accelerator.device
    part = schedule.batch_size // accelerator.num_processes // schedule.accumulate
    costs = count(model, job.settings.data.input_shape(job.channels, training=True))
    exact = costs.memory(part, "float32", True, device.type)
    low = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[schedule.mixed_precision]
    passes = exact if low == "float32" else costs.memory(part, low, True, device.type)
    owners = accelerator.num_processes if wants_sharding() else 1
    kept = (exact.weights + exact.gradients) // owners
    needed, free = kept + passes.activations, find_free(device)
    if free is not None and needed > free:
        raise ConfigError(
            f"a step needs about {human(needed)}B of memory, and {human(max(free, 0))}B are free on {device}: "
            f"set schedule.accumulate or a smaller schedule.batch_size"
        )
    return needed


def _sizes(state: Any) -> Iterator[int]:
    """The bytes of all tensors in a state."""
    if isinstance(state, torch.Tensor):
        yield (state.to_local() if is_shared(state) else state).nbytes
    elif isinstance(state, dict):
        for part in state.values():
            yield from _sizes(part)
