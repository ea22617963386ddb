"""What is optimised, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi
from typing import Any

import torch
from torch import nn

from classy_vision.train.config import ScheduleConfig

# name: class and its options
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adamw": (torch.optim.AdamW, {}),
}


def make_optimizer(model: nn.Module, schedule: ScheduleConfig) -> torch.optim.Optimizer:
    """The optimizer of the parameters that learn; vectors (norms, biases) do not decay."""
    learning = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.dim() > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in learning if p.dim() <= 1], "weight_decay": 0.0},
    ]
    cls, options = OPTIMIZERS[schedule.optimizer]
    # Fused: one pass over each parameter instead of one per operation.
    return cls(groups, lr=schedule.learning_rate, fused=True, **options)


def learning_rate(schedule: ScheduleConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of a step: a linear rise, then a cosine that would be 0 one step after the last."""
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return schedule.learning_rate * (step + 1) / (warmup + 1)
    part = (step - warmup) / (schedule.epochs * steps_per_epoch - warmup)
    return schedule.learning_rate * (1 + cos(pi * part)) / 2
