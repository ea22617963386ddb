"""Which epoch of a run is the best, and when the run and each of its heads stop looking for a better one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from classy_vision.config import unknown
from classy_vision.train.config import ScheduleConfig, TaskConfig, TrainConfig
from classy_vision.train.tasks import Task

LOWER_IS_BETTER = ("loss", "mae", "rmse", "abs_rel")
"""The last parts of the names of such metrics."""


def check_best(schedule: ScheduleConfig, tasks: Mapping[str, Task]) -> None:
    """Checks the metric that ``schedule.best`` names.

    Raises:
        ConfigError: no task has it.
    """
    known = [f"val/{head}/{name}" for head, task in tasks.items() for name in ("loss", *task.metrics())]
    if schedule.best is not None and schedule.best not in known:
        raise unknown("metric", schedule.best, known, "schedule.best")


def find_best(schedule: ScheduleConfig, history: Sequence[Mapping[str, float]]) -> int:
    """The index of the first of the best epochs; of the last epoch, where no metric says which is better."""
    if schedule.best is None or not history:
        return len(history) - 1
    sign = 1 if schedule.best.rpartition("/")[2] in LOWER_IS_BETTER else -1
    values = [_worst_if_unknown(sign * row[schedule.best]) for row in history]
    return values.index(min(values))


def is_over(schedule: ScheduleConfig, history: Sequence[Mapping[str, float]]) -> bool:
    """Whether no epoch was better for ``schedule.patience`` epochs."""
    if schedule.patience is None or not history:
        return False
    return len(history) - 1 - find_best(schedule, history) >= schedule.patience


def find_stopped(
    tasks: Mapping[str, TaskConfig],
    history: Sequence[Mapping[str, float]],
    schedule: ScheduleConfig = ScheduleConfig(),  # noqa: B008  # which is frozen
) -> dict[str, int]:
    """The heads that have stopped learning by ``tasks.<head>.patience``, with the last epoch that each learned
    in, counted from 1. Epochs in which ``schedule`` freezes a head do not count."""
    return {
        head: epoch
        for head, config in tasks.items()
        if config.patience is not None
        and (epoch := _find_end(_list_losses(head, history, schedule), config.patience))
    }


def _list_losses(
    head: str, history: Sequence[Mapping[str, float]], schedule: ScheduleConfig
) -> Iterable[tuple[int, float]]:
    """The epochs in which a head learned, counted from 1, with its losses."""
    for epoch, row in enumerate(history):
        if head not in schedule.frozen_heads(epoch):
            yield epoch + 1, row[f"val/{head}/loss"]


def _find_end(losses: Iterable[tuple[int, float]], patience: int) -> int:
    """The first epoch by whose end no loss was lower for ``patience`` epochs; 0 if there is none."""
    lowest, since = math.inf, 0
    for epoch, loss in losses:
        lowest, since = (loss, 0) if loss < lowest else (lowest, since + 1)
        if since >= patience:
            return epoch
    return 0


def have_all_stopped(settings: TrainConfig, history: Sequence[Mapping[str, float]]) -> bool:
    """Whether no head is left that learns, because of ``tasks.<head>.patience``."""
    stopped = find_stopped(settings.tasks, history, settings.schedule)
    return bool(stopped) and settings.tasks.keys() - settings.schedule.kept_heads <= stopped.keys()


def describe_stopped(settings: TrainConfig, history: Sequence[Mapping[str, float]]) -> Iterable[str]:
    """Says which heads have stopped with the last epoch."""
    tasks = settings.tasks
    for head, epoch in find_stopped(tasks, history, settings.schedule).items():
        if epoch == len(history):
            yield (
                f"head {head!r} stopped after epoch {epoch}: its validation loss was not lower for "
                f"{tasks[head].patience} epochs"
            )


def describe_best(schedule: ScheduleConfig, history: Sequence[Mapping[str, float]]) -> Iterable[str]:
    """Says which epoch the run gives, where that is not just the last."""
    if schedule.best is not None:
        best = find_best(schedule, history)
        why = f", {schedule.patience} epochs ago" if is_over(schedule, history) else ""
        yield f"the best epoch is {best + 1}{why}: {schedule.best} = {history[best][schedule.best]:.4g}"


def _worst_if_unknown(value: float) -> float:
    return math.inf if math.isnan(value) else value
