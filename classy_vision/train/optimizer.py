"""What is optimised, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi
from typing import Any

import torch
from torch import nn

from classy_vision.models import ClassyModel
from classy_vision.train.config import ScheduleConfig

# name: class and its options
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adamw": (torch.optim.AdamW, {}),
}


NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def make_optimizer(model: ClassyModel, schedule: ScheduleConfig) -> torch.optim.Optimizer:
    """The optimizer of the parameters that learn, in two groups: those that decay, and the others.

    Norms, biases, other vectors and what ``model.no_weight_decay`` names do not decay.
    """
    spared = {f"{path}.{name}" for path, part in model.named_modules() for name in _spared_by(part)}
    spared |= model.no_weight_decay()
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return _optimizer(
        [p for name, p in learning if name not in spared and p.dim() > 1],
        [p for name, p in learning if name in spared or p.dim() <= 1],
        schedule,
    )


def restore_optimizer(
    model: ClassyModel, schedule: ScheduleConfig, state: dict[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer of a checkpoint.

    Where tokens and positions decayed, as they did in earlier versions, they still do.
    """
    optimizer = make_optimizer(model, schedule)
    sizes = [len(group["params"]) for group in state["param_groups"]]
    if sizes != [len(group["params"]) for group in optimizer.param_groups]:
        learning = [p for p in model.parameters() if p.requires_grad]
        matrices, vectors = [p for p in learning if p.dim() > 1], [p for p in learning if p.dim() <= 1]
        optimizer = _optimizer(matrices, vectors, schedule)
    optimizer.load_state_dict(state)
    return optimizer


def _spared_by(part: nn.Module) -> list[str]:
    """Names of the parameters of a module itself that do not decay, whatever their shape."""
    return [
        name for name, _ in part.named_parameters(recurse=False) if isinstance(part, NORMS) or name == "bias"
    ]


def _optimizer(
    decaying: list[nn.Parameter], others: list[nn.Parameter], schedule: ScheduleConfig
) -> torch.optim.Optimizer:
    groups = [
        {"params": decaying, "weight_decay": schedule.weight_decay},
        {"params": others, "weight_decay": 0.0},
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
