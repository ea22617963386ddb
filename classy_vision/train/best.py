"""Which epoch of a run is the best, and when to stop looking for a better one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from classy_vision.config import unknown
from classy_vision.train.config import ScheduleConfig
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


def describe_best(schedule: ScheduleConfig, history: Sequence[Mapping[str, float]]) -> Iterable[str]:
    """Says which epoch the run gives, where that is not just the last."""
    if schedule.best is not None:
        best = find_best(schedule, history)
        why = f", {schedule.patience} epochs ago" if is_over(schedule, history) else ""
        yield f"the best epoch is {best + 1}{why}: {schedule.best} = {history[best][schedule.best]:.4g}"


def _worst_if_unknown(value: float) -> float:
    return math.inf if math.isnan(value) else value
