"""What is optimised, by which rule, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import cos, pi
from typing import Any

import torch
from torch import nn

from classy_vision.config import ConfigError, unknown
from classy_vision.models import ClassyModel
from classy_vision.train.config import ScheduleConfig
from classy_vision.train.shards import fit_optimizer, is_shared
from classy_vision.weights.state import head_of


@dataclass(frozen=True)
class Rule:
    """An optimizer: its class, and what it is told beside the learning rate and the weight decay.

    Attributes:
        name: of the class.
        momentum: the option for its first momentum, whose default is in ``options``.
        options: of the class.
        is_torchs: whether it is in ``torch.optim``; the others are in pytorch_optimizer.
    """

    name: str
    momentum: str
    options: Mapping[str, Any]
    is_torchs: bool = False

    def load(self) -> Callable[..., torch.optim.Optimizer]:
        """Imports the class.

        Raises:
            ConfigError: its package is not installed.
        """
        if not self.is_torchs and find_spec("pytorch_optimizer") is None:
            raise ConfigError(
                f"the optimizer {self.name} needs: pip install 'classy-vision-models[optimizers]'"
            )
        if self.is_torchs:
            module: Any = torch.optim
        else:
            import pytorch_optimizer as module  # an extra
        found: Callable[..., torch.optim.Optimizer] = getattr(module, self.name)
        return found


FUSED = {"fused": True}  # one pass over each parameter instead of one per operation
RULES: dict[str, Rule] = {
    "sgd": Rule("SGD", "momentum", {"momentum": 0.9, "nesterov": True, **FUSED}, True),
    "adamw": Rule("AdamW", "betas", {"betas": (0.9, 0.999), **FUSED}, True),
    "lamb": Rule("Lamb", "betas", {"betas": (0.9, 0.999)}),
    "muon": Rule("Muon", "momentum", {"momentum": 0.95, "nesterov": True, "use_adjusted_lr": True}),
    "schedule_free_sgd": Rule("ScheduleFreeSGD", "momentum", {"momentum": 0.9}),
    "schedule_free_adamw": Rule("ScheduleFreeAdamW", "betas", {"betas": (0.9, 0.999)}),
}
"""By ``schedule.optimizer``."""
WITHOUT_RATES = ("schedule_free_sgd", "schedule_free_adamw")
"""Those that average weights in place of a falling learning rate (Defazio et al., 2024)."""

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def make_optimizer(
    model: ClassyModel, schedule: ScheduleConfig, beside: nn.Parameter | None = None
) -> torch.optim.Optimizer:
    """Makes the optimizer of the parameters that learn.

    Args:
        model: whose parameters they are.
        schedule: says how they learn.
        beside: a parameter that learns with them, without weight decay.

    Raises:
        ConfigError: a package is missing, or a learning rate is of a head that is not there.
    """
    groups = group_parameters(model, schedule)
    if beside is not None:
        alone = {"params": [beside], "weight_decay": 0.0, "scale": 1.0, "of_head": True, "decays": False}
        groups.append(alone)
    return _make(groups, schedule)


def restore_optimizer(
    model: ClassyModel,
    schedule: ScheduleConfig,
    state: dict[str, Any],
    beside: nn.Parameter | None = None,
) -> torch.optim.Optimizer:
    """Makes the optimizer of a checkpoint.

    Where tokens and positions decayed, as they did in earlier versions, they still do.
    """
    optimizer = make_optimizer(model, schedule, beside)
    sizes = [len(group["params"]) for group in state["param_groups"]]
    if sizes != [len(group["params"]) for group in optimizer.param_groups]:
        learning = [p for p in model.parameters() if p.requires_grad]
        matrices, vectors = [p for p in learning if p.dim() > 1], [p for p in learning if p.dim() <= 1]
        groups = [
            {"params": matrices, "weight_decay": schedule.weight_decay, "scale": 1.0},
            {"params": vectors, "weight_decay": 0.0, "scale": 1.0},
        ]
        optimizer = _make(groups, schedule)
    kept: list[dict[str, Any]] = [
        {key: group[key] for key in ("scale", "fused") if key in group} for group in optimizer.param_groups
    ]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.load_state_dict(fit_optimizer(state, parameters))
    for group, own in zip(optimizer.param_groups, kept):
        group.update(own)  # earlier versions wrote no scale, and "fused" depends on how processes share
    return optimizer


def _make(groups: list[dict[str, Any]], schedule: ScheduleConfig) -> torch.optim.Optimizer:
    rule = RULES[schedule.optimizer]
    options = dict(rule.options)
    if schedule.momentum is not None:
        betas = options.get("betas")
        options[rule.momentum] = (schedule.momentum, betas[1]) if betas else schedule.momentum
        if schedule.momentum == 0 and "nesterov" in options:
            options["nesterov"] = False  # which torch refuses without a momentum
    if schedule.optimizer == "muon":
        for group in groups:
            group["use_muon"] = group["decays"] and not group["of_head"]
    # torch has no fused SGD for parameters that processes share, nor where some begin to learn later.
    shared = any(is_shared(p) for group in groups for p in group["params"])
    if schedule.optimizer == "sgd" and (shared or schedule.unfreeze_at):
        options["fused"] = False
    for group in groups:
        for name in ("of_head", "decays"):
            group.pop(name, None)
        group["lr"] = schedule.learning_rate * group["scale"]
    return rule.load()(groups, lr=schedule.learning_rate, **options)


def group_parameters(model: ClassyModel, schedule: ScheduleConfig) -> list[dict[str, Any]]:
    """Groups the parameters that learn by whether they decay and by their learning rate.

    Norms, biases, other vectors and what ``model.no_weight_decay`` names do not decay.

    Returns:
        Groups with ``params``, ``weight_decay``, and ``scale``, the part of the learning rate that is theirs:
        those of the first layers first, and of each layer those that decay first. ``decays`` and ``of_head``
        say what is in a group.
    """
    spared = {f"{path}.{name}" for path, part in model.named_modules() for name in _spared_by(part)}
    spared |= model.no_weight_decay()
    scales = find_scales(model, schedule)
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
    if schedule.optimizer != "muon" and set(scales.values()) == {1.0}:
        groups = {(1.0, False, False): [], (1.0, False, True): []}  # a group more or less is another checkpoint
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            still = name in spared or parameter.dim() <= 1
            of_head = head_of(name) is not None and schedule.optimizer == "muon"
            groups.setdefault((scales[name], of_head, still), []).append(parameter)
    return [
        {
            "params": groups[key],
            "weight_decay": 0.0 if key[2] else schedule.weight_decay,
            "scale": key[0],
            "of_head": key[1],
            "decays": not key[2],
        }
        for key in sorted(groups)
    ]


def find_scales(model: ClassyModel, schedule: ScheduleConfig) -> dict[str, float]:
    """The part of the learning rate that each parameter has, by name.

    Raises:
        ConfigError: a rate is of a head that is not there.
    """
    layers = model.parameter_layers()
    top = max(layers.values())
    decay = schedule.layer_decay or 1.0
    scales = {name: decay ** (top - layer) for name, layer in layers.items()}
    rates = schedule.head_learning_rate
    if rates is None:
        return scales
    heads = {str(head.unique_id) for entries in model.get_heads().values() for head in entries}
    by_head = rates if isinstance(rates, Mapping) else dict.fromkeys(heads, rates)
    for head in by_head:
        if head not in heads:
            raise unknown("head", head, heads, "schedule.head_learning_rate")
    for name in scales:
        head = (head_of(name) or "").rpartition(".")[2]
        if rate := by_head.get(head):
            scales[name] = rate / schedule.learning_rate
    return scales


def _spared_by(part: nn.Module) -> list[str]:
    """Names of the parameters of a module itself that do not decay, whatever their shape."""
    return [
        name for name, _ in part.named_parameters(recurse=False) if isinstance(part, NORMS) or name == "bias"
    ]


# -- learning rates


def learning_rate(schedule: ScheduleConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of a step: a linear rise over the warm-up, then ``learning_rate_schedule``, and that of ``swa``
    from where it begins."""
    if schedule.swa is not None and step >= (start := (schedule.swa.epoch - 1) * steps_per_epoch):
        return schedule.swa.learning_rate or _follow_schedule(schedule, start, steps_per_epoch)
    return _follow_schedule(schedule, step, steps_per_epoch)


def _follow_schedule(schedule: ScheduleConfig, step: int, steps_per_epoch: int) -> float:
    steps = schedule.epochs * steps_per_epoch
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    if schedule.learning_rate_schedule == "one_cycle":
        return _one_cycle(schedule.learning_rate, step, steps, warmup or round(0.3 * steps))
    if step < warmup:
        return schedule.learning_rate * (step + 1) / (warmup + 1)
    part = (step - warmup) / (steps - warmup)
    least, peak = schedule.min_learning_rate, schedule.learning_rate
    if schedule.learning_rate_schedule == "step":
        passed = sum(step >= epoch * steps_per_epoch for epoch in schedule.decay_epochs)
        return max(least, peak * schedule.decay_factor**passed)
    if schedule.learning_rate_schedule == "constant" or schedule.optimizer in WITHOUT_RATES:
        return peak
    if schedule.learning_rate_schedule == "linear":
        return least + (peak - least) * (1 - part)
    return least + (peak - least) * (1 + cos(pi * part)) / 2


def _one_cycle(peak: float, step: int, steps: int, rising: int) -> float:
    """From a 25th of the peak up to it, and down to a 250,000th, along cosines (Smith and Topin, 2018)."""
    first, last = peak / 25, peak / 250_000
    if step < rising:
        return first + (peak - first) * (1 - cos(pi * step / rising)) / 2
    return last + (peak - last) * (1 + cos(pi * (step - rising) / max(1, steps - rising))) / 2
