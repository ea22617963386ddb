"""The moving average of weights."""

from __future__ import annotations

import torch
from torch import nn

from classy_vision.train.averaging import make_average
from classy_vision.train.config import ScheduleConfig


def test_no_average_is_kept_unless_it_is_asked_for() -> None:
    assert make_average(nn.Linear(1, 1), ScheduleConfig()) is None


def test_the_average_by_hand() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    average = make_average(model, ScheduleConfig(ema=0.5))
    assert average is not None
    wanted = None
    for steps, value in enumerate([1.0, 2.0, 4.0]):
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[1].running_mean.fill_(value)
            model[1].num_batches_tracked.fill_(steps)
        average.update_parameters(model)
        weight = max(0.5, 9 / (10 + steps))
        wanted = value if wanted is None else wanted + weight * (value - wanted)
    torch.testing.assert_close(average.module[0].weight.item(), wanted)
    torch.testing.assert_close(average.module[1].running_mean.item(), wanted)
    assert average.module[1].num_batches_tracked == 2
    assert not any(p.requires_grad for p in average.parameters())
    assert not average.module.training
