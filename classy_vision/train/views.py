"""Running a model on the views of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from classy_vision.train.tasks import Task


def run_views(model: Callable[[Tensor], Any], views: Tensor, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """What the model says of samples, by head, in float32: the average of what it says of each view.

    Args:
        model: with the heads of ``tasks``.
        views: (n, v, c, h, w) or (n, v, c, t, h, w).
        tasks: by head.

    Returns:
        (n, k) by head.
    """
    return average_views(model(views.flatten(0, 1)), views.shape[1], tasks)


def average_views(outputs: Any, views: int, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """Returns outputs (n, k) by head from those of a model for n samples of ``views`` views each."""
    named = by_head(outputs, tasks)
    if views == 1:
        return named
    return {
        head: task.average(named[head].reshape(len(named[head]) // views, views, -1))
        for head, task in tasks.items()
    }


def by_head(outputs: Any, tasks: Mapping[str, Task]) -> dict[str, Tensor]:
    """A model's outputs by head id, also where there is only one, in float32."""
    named = outputs if isinstance(outputs, dict) else dict.fromkeys(tasks, outputs)
    return {head: named[head].float() for head in tasks}
