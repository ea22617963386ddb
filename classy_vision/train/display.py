"""What a person sees of a run: what is trained, a bar on a terminal, and a line per epoch everywhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from classy_vision.models import ClassyModel
from classy_vision.text import human
from classy_vision.train.job import Job
from classy_vision.train.optimizer import learning_rate
from classy_vision.train.run_folder import Row
from classy_vision.train.tasks import Regression, Task
from classy_vision.trunk.names import split_place
from classy_vision.weights.report import Report

PERCENT = frozenset(("accuracy", "mAP", "f1", "mIoU", "pixel_accuracy", "delta1"))
REFRESH = 0.5
"""Seconds between looks at the losses: each makes the CPU wait for the GPU."""
MOST = 12
"""Classes that are listed one by one."""
TICKS, WAIT = 4, 2.0
"""Steps and seconds after which it is said how long training will take."""


@dataclass(frozen=True)
class Column:
    """A column of the table of epochs."""

    group: str
    title: str
    key: str
    show: Callable[[float], str]

    @property
    def width(self) -> int:
        return max(len(self.title), 8)


def columns(tasks: Mapping[str, Task], unit: str) -> list[Column]:
    """The columns: the epoch's own, then those of each head."""
    found = [
        Column("", "epoch", "epoch", "{:.0f}".format),
        Column("", "lr", "learning_rate", "{:.1e}".format),
        Column("", f"{unit}s/s", f"{unit}s_per_second", "{:,.0f}".format),
    ]
    for head, task in tasks.items():
        found += [
            Column(head, "loss", f"train/{head}/loss", "{:.4f}".format),
            Column(head, "val loss", f"val/{head}/loss", "{:.4f}".format),
        ]
        for name in task.metrics():
            show = "{:.2%}".format if name in PERCENT else "{:.4g}".format
            found.append(Column(head, name, f"val/{head}/{name}", show))
    return found


@dataclass
class Clock:
    """Says how long training will take, as soon as that can be told.

    Args:
        steps: of an epoch.
        epochs: that are left, with this one.
    """

    steps: int
    epochs: int
    _ticks: int = 0
    _start: float = field(default_factory=lambda: time.monotonic())

    def tick(self) -> str | None:
        """After each step; the first ones, which are slower, do not count where there are more."""
        self._ticks += 1
        now = time.monotonic()
        if self._ticks == 1 < self.steps:
            self._start = now
            return None
        if self._ticks < self.steps and (self._ticks < TICKS or now - self._start < WAIT):
            return None
        counted = max(1, self._ticks - 1)
        seconds = (now - self._start) / counted * self.steps
        return f"training takes about {duration(seconds)} per epoch, {duration(seconds * self.epochs)} in all"


def duration(seconds: float) -> str:
    """``seconds`` as people say it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


@dataclass
class Display:
    """Prints the run of one process; the others are given a quiet console.

    Args:
        tasks: by head.
        epochs: in all.
        console: where to.
        unit: what is counted, "image" or "video".
    """

    tasks: Mapping[str, Task]
    epochs: int
    console: Console
    unit: str = "image"
    _progress: Progress = field(init=False)
    _looked: float = 0.0
    _clock: Clock | None = None
    _estimated: bool = False
    _features: TaskID | None = None

    def __post_init__(self) -> None:
        self._columns = columns(self.tasks, self.unit)
        live = self.console.is_terminal and not self.console.quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not live,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Shows the bar, under the heading of the table."""
        groups = [
            "" if i and c.group == self._columns[i - 1].group else c.group for i, c in enumerate(self._columns)
        ]
        self.line("  ".join(g.ljust(c.width) for g, c in zip(groups, self._columns)).rstrip())
        self.line("  ".join(column.title.rjust(column.width) for column in self._columns))
        with self._progress:
            yield

    def start(self, epoch: int, steps: int, done: int = 0) -> TaskID:
        """Begins the bar of an epoch, counted from 0, of which some steps may be done."""
        self._clock = Clock(steps, self.epochs - epoch)
        text = f"epoch {epoch + 1}/{self.epochs}"
        return self._progress.add_task(text, total=steps, completed=done, note="")

    def start_features(self, rows: int, nbytes: int, folder: Path) -> None:
        """Says where the features of a frozen trunk are, and begins the bar of those that are computed."""
        if not rows:
            self.line(f"features of the frozen trunk are read from {folder}")
            return
        self.line(
            f"features of {rows:,} {self.unit}s, {human(nbytes)}B, are computed once and kept in {folder}"
        )
        self._features = self._progress.add_task("features", total=rows, note="")

    def advance(self, rows: int) -> None:
        """Moves the bar of features on."""
        if self._features is not None:
            self._progress.advance(self._features, rows)

    def end_features(self) -> None:
        """Removes the bar of features, if there is one."""
        if self._features is not None:
            self._progress.remove_task(self._features)
            self._features = None

    def step(self, bar: TaskID, losses: Callable[[], Iterable[float]], per_second: float) -> None:
        """Moves the bar on; now and then it asks for the losses, and once it says how long it will take."""
        if self._clock is not None and not self._estimated and (said := self._clock.tick()):
            self._estimated = True
            self.line(said)
        if self._progress.disable:
            return
        self._progress.advance(bar)
        if time.monotonic() - self._looked > REFRESH:
            self._looked = time.monotonic()
            parts = [f"{head} {loss:.3f}" for head, loss in zip(self.tasks, losses())]
            self._progress.update(bar, note="  ".join([f"{per_second:,.0f} {self.unit}s/s", *parts]))

    def end(self, bar: TaskID, row: Row) -> None:
        """Replaces the bar by the epoch's line in the table."""
        self._progress.remove_task(bar)
        self.line("  ".join(column.show(row[column.key]).rjust(column.width) for column in self._columns))

    def lines(self, texts: Iterable[str]) -> None:
        """Prints lines as they are."""
        for text in texts:
            self.line(text)

    def line(self, text: str) -> None:
        """Prints a line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


# -- before it begins


def describe_job(job: Job, model: ClassyModel, device: torch.device, processes: int) -> Iterator[str]:
    """Says what is about to be trained in a few lines, so that a mistake shows before hours are spent.

    These are the sizes of the splits, the device, the parameters, the heads with their labels, and the weights.

    Args:
        job: what is trained.
        model: as it starts.
        device: of this process.
        processes: how many there are.
    """
    unit = job.settings.data.unit
    trained, held = len(job.records.rows(held_out=False)), len(job.records.rows(held_out=True))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    where += f" in each of {processes} processes" if processes > 1 else ""
    yield f"{trained:,} {unit}s to train on, {held:,} held out; {where}"
    sizes: Counter[bool] = Counter()
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    name = job.settings.model.get("name", type(model).__name__)
    yield f"{name}: {sizes[True]:,} parameters learn, {sizes[False]:,} are frozen"
    if (lora := job.settings.schedule.lora) is not None:
        layers = sum(".lora_A." in key for key, _ in model.named_parameters())
        yield f"adapters of rank {lora.rank} on {layers} layers of the trunk"
    if frozen := job.settings.schedule.frozen_heads(0):
        yield f"heads that are frozen: {', '.join(frozen)}"
    blocks = {str(head.unique_id): block for block, heads in model.get_heads().items() for head in heads}
    for head, task in job.tasks.items():
        yield f"head {head!r} at {' and '.join(split_place(blocks[head]))}: {_describe_labels(job, task)}"
    if job.settings.recipe:
        yield f"the recipe is {job.settings.recipe}"
    if model.loaded is not None:
        yield f"weights of {model.loaded.source}: {_describe_heads(model.loaded, list(job.tasks))}"


def _describe_labels(job: Job, task: Task) -> str:
    targets = job.targets[task.name][job.records.rows(held_out=False)]
    if task.dense:
        labels, count = job.dense[task.name], int(targets.sum())
        rest = f"; {len(targets) - count:,} without one" if count < len(targets) else ""
        of = f", {len(task.classes)} classes" if task.has_classes else ""
        return f"{count:,} {labels.what}s{of}{rest}"
    known = targets[task.valid(targets)]
    missing = len(targets) - len(known)
    rest = f"; {missing:,} without a label" if missing else ""
    if isinstance(task, Regression):
        return f"numbers, {known.min():.4g} to {known.max():.4g}, {known.double().mean():.4g} on average{rest}"
    counts = (known > 0).sum(0) if known.dim() == 2 else torch.bincount(known, minlength=len(task.classes))
    of_class = dict(zip(task.classes, counts.tolist()))
    if len(of_class) > MOST:
        rarest = min(of_class, key=of_class.__getitem__)
        said = f"{of_class[rarest]:,} ({rarest}) to {max(of_class.values()):,} {job.settings.data.unit}s each"
    else:
        said = ", ".join(f"{label} {count:,}" for label, count in of_class.items())
    return f"{len(of_class)} {'labels' if known.dim() == 2 else 'classes'}: {said}{rest}"


def _describe_heads(report: Report, heads: list[str]) -> str:
    new = [head for head in heads if head in report.kept]
    kept = [head for head in heads if head not in report.kept]
    parts = {"continue": kept, "are new": new}
    return ", ".join(
        f"{'heads' if i == 0 else 'and'} {', '.join(names)} {verb}"
        for i, (verb, names) in enumerate((verb, names) for verb, names in parts.items() if names)
    )


def describe_return(damage: str, state: Mapping[str, Any]) -> str:
    """Says from where a run continues whose last checkpoint is damaged."""
    done = len(state["history"])
    step = f" and {state['progress']['step']} steps" if state["progress"] else ""
    return f"{damage}. The checkpoint before it is whole: continuing after {done} epochs{step}"


def describe_longer(job: Job, state: Mapping[str, Any] | None) -> str:
    """Says what becomes of the learning rate, which depends on the number of epochs."""
    schedule, done = job.settings.schedule, len(state["history"]) if state else 0
    steps = len(job.records.rows(held_out=False)) // schedule.batch_size
    first = done * steps + (state["progress"]["step"] if state and state["progress"] else 0)
    return (
        f"training continues after {done} epochs to {schedule.epochs}: from here on the learning rate is that "
        f"of a run of {schedule.epochs} epochs, which is {learning_rate(schedule, first, steps):.1e} now"
    )
