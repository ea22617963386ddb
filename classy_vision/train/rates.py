"""Which learning rate to begin with: the losses of steps whose rates rise (Smith, 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classy_vision.config import ConfigError, OperationError
from classy_vision.train.config import TrainConfig
from classy_vision.train.figures import draw_rates, save_figure
from classy_vision.train.optimizer import WITHOUT_RATES
from classy_vision.train.run import rehearsing

LOWEST, HIGHEST = 1e-6, 10.0
STEPS = 100
SMOOTHING = 0.9
"""Part of the losses before in the average of a step."""
DIVERGED = 4.0
"""Times the lowest loss, at which the sweep ends."""
WARMUP = 10
"""Steps at the lowest rates, whose losses say nothing."""
FEWEST = 20
"""Steps without which there is no suggestion."""


@dataclass(frozen=True)
class RateSweep:
    """What was found.

    Attributes:
        rates: of the steps.
        losses: of each step, the weighted sum over heads, averaged with those before.
        suggestion: where the loss falls fastest with the logarithm of the rate.
        lowest: the rate with the lowest loss, above which training is likely to diverge.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float
    lowest: float

    def __str__(self) -> str:
        return (
            f"the loss falls fastest at a learning rate of {self.suggestion:.1e}, and is lowest at "
            f"{self.lowest:.1e}: try --set schedule.learning_rate={self.suggestion:.1e}"
        )


def find_rate(settings: TrainConfig, plot: Path | None = None) -> RateSweep:
    """Finds a learning rate by steps whose rates rise from 1e-6 to 10; nothing of them is kept.

    Args:
        settings: the job. Its own rate and schedule do not matter, apart from the ratios of the rates of
            layers and heads.
        plot: a file to draw the losses into, .png or .svg.

    Raises:
        ConfigError: something does not fit, or a file is unreadable.
        OperationError: the loss falls at no rate.
    """
    if settings.schedule.optimizer in WITHOUT_RATES:
        raise ConfigError(
            f"schedule.optimizer = {settings.schedule.optimizer!r} averages over all steps, so that a sweep of "
            f"rates says nothing: use 'sgd' or 'adamw'"
        )
    rates = np.geomspace(LOWEST, HIGHEST, STEPS).tolist()
    with rehearsing(settings) as trainer:
        losses = smooth(trainer.sweep(rates))
    found = suggest(rates[: len(losses)], losses)
    if plot is not None and trainer.accelerator.is_main_process:
        save_figure(draw_rates(found.rates, found.losses, found.suggestion), plot)
    return found


def smooth(losses: Iterable[float]) -> list[float]:
    """Averages losses with those before, up to the first that has diverged."""
    found: list[float] = []
    average = 0.0
    for step, loss in enumerate(losses, 1):
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        value = average / (1 - SMOOTHING**step)
        if not math.isfinite(value) or (step > WARMUP and value > DIVERGED * min(found)):
            break
        found.append(value)
    return found


def suggest(rates: Sequence[float], losses: Sequence[float]) -> RateSweep:
    """Finds the rate at which the loss falls fastest, before it is lowest.

    Raises:
        OperationError: it does not fall.
    """
    if len(losses) < FEWEST:
        raise OperationError(
            f"the loss diverged after {len(losses)} steps, at a learning rate of "
            f"{rates[-1] if rates else LOWEST:.1e}"
        )
    lowest = WARMUP + int(np.argmin(losses[WARMUP:]))
    slopes = np.gradient(np.asarray(losses), np.log(rates))[WARMUP : lowest + 1]
    if not len(slopes) or slopes.min() >= 0:
        raise OperationError(
            f"the loss falls at no learning rate from {rates[0]:.1e} to {rates[-1]:.1e}: look at the data and "
            f"the tasks"
        )
    steepest = WARMUP + int(slopes.argmin())
    return RateSweep(tuple(rates), tuple(losses), rates[steepest], rates[lowest])
