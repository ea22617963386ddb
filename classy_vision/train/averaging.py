"""The average of the weights of a run: a moving one (Polyak and Juditsky, 1992; Tarvainen and Valpola, 2017),
or that of the ends of its last epochs (Izmailov et al., 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from classy_vision.train.config import ScheduleConfig


def make_average(model: nn.Module, schedule: ScheduleConfig) -> AveragedModel | None:
    """Makes the average of ``schedule.ema`` or ``schedule.swa``, which starts as ``model`` is; None where none
    is kept."""
    if schedule.ema is not None:
        average = AveragedModel(model, use_buffers=True)
        average.multi_avg_fn = _fade(schedule.ema, average)
    elif schedule.swa is not None:
        average = AveragedModel(model)
    else:
        return None
    return average.eval().requires_grad_(False)


def _fade(decay: float, model: AveragedModel) -> Callable[[Any, Any, Any], None]:
    @torch.no_grad()
    def update(averages: Sequence[Tensor], values: Sequence[Tensor], steps: Any) -> None:
        """Moves averages towards values; at the start by more, so that the first weights are soon forgotten."""
        # ``steps`` is on the device of the averages, and reading it would wait for that.
        weight = max(1 - decay, 9 / (10 + int(model.n_averaged)))
        for average, value in zip(averages, values):  # one by one, as some may be those that processes share
            if average.is_floating_point():
                average.lerp_(value.to(average), weight)
            else:
                average.copy_(value)

    return update


# -- the statistics of batch norms


def find_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms that collect statistics in the mode in which ``model`` is, as frozen ones do not."""
    norms = (part for part in model.modules() if isinstance(part, _BatchNorm))
    return [norm for norm in norms if norm.training and norm.track_running_stats]


@contextmanager
def collecting(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Makes the statistics of norms the plain means over the batches that their model sees inside.

    ``torch.optim.swa_utils.update_bn`` does so for all norms of a model, also for those that are frozen.
    """
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
