"""What a person sees while a model trains: a bar on a terminal, a line per epoch everywhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from classy_vision.train.run_folder import Row
from classy_vision.train.tasks import Task

PERCENT = frozenset(("accuracy", "mAP", "f1"))
REFRESH = 0.5
"""Seconds between looks at the losses: each makes the CPU wait for the GPU."""
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
        groups = ["" if i and c.group == self._columns[i - 1].group else c.group for i, c in self._each()]
        self.line("  ".join(g.ljust(c.width) for g, c in zip(groups, self._columns)).rstrip())
        self.line("  ".join(column.title.rjust(column.width) for column in self._columns))
        with self._progress:
            yield

    def start(self, epoch: int, steps: int, done: int = 0) -> TaskID:
        """Begins the bar of an epoch, counted from 0, of which some steps may be done."""
        self._clock = Clock(steps, self.epochs - epoch)
        text = f"epoch {epoch + 1}/{self.epochs}"
        return self._progress.add_task(text, total=steps, completed=done, note="")

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

    def line(self, text: str) -> None:
        """Prints a line as it is."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _each(self) -> Iterator[tuple[int, Column]]:
        return iter(enumerate(self._columns))
