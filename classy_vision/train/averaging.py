"""The moving average of the weights of a run (Polyak and Juditsky, 1992; Tarvainen and Valpola, 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from classy_vision.train.config import ScheduleConfig


def make_average(model: nn.Module, schedule: ScheduleConfig) -> AveragedModel | None:
    """Makes the average of ``schedule.ema``, which starts as ``model`` is; None where none is kept."""
    if schedule.ema is None:
        return None
    average = AveragedModel(model, multi_avg_fn=_fade(schedule.ema), use_buffers=True)
    return average.eval().requires_grad_(False)


def _fade(decay: float) -> Callable[[Iterable[Any], Iterable[Any], Any], None]:
    @torch.no_grad()
    def update(averages: Iterable[Tensor], values: Iterable[Tensor], steps: Tensor | int) -> None:
        """Moves averages towards values; at the start by more, so that the first weights are soon forgotten."""
        weight = max(1 - decay, 9 / (10 + int(steps)))
        for average, value in zip(averages, values):
            if average.is_floating_point():
                average.lerp_(value.to(average), weight)
            else:
                average.copy_(value)

    return update
