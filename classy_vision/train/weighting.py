"""How the losses of several heads become one gradient.

"fixed" adds them. "uncertainty" learns how much each counts (Kendall et al., "Multi-task learning using
uncertainty to weigh losses", 2018): with a log variance s per head the sum is of ``exp(-s) * loss + s / 2``,
and the squared errors of a regression count half, as in a normal distribution. "upgrad" turns the gradient of
the trunk so that a small step makes no loss larger (Quinton and Rey, "Jacobian descent", 2024), by TorchJD.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel
from classy_vision.train.config import ScheduleConfig, TrainConfig
from classy_vision.train.tasks import Task
from classy_vision.weights.state import head_of


def check_weighting(settings: TrainConfig, tasks: Mapping[str, Task]) -> None:
    """Raises where there is nothing to weigh.

    Raises:
        ConfigError: there is one head only.
    """
    weighting = settings.schedule.loss_weighting
    if weighting != "fixed" and len(tasks) < 2:
        raise ConfigError(
            f"schedule.loss_weighting = {weighting!r} is for several heads, and there is one: "
            f"{', '.join(tasks)}"
        )


def make_log_variances(
    schedule: ScheduleConfig, tasks: Mapping[str, Task], device: torch.device
) -> nn.Parameter | None:
    """Makes the log variances (heads,) that "uncertainty" learns, which start at 0; None otherwise."""
    wanted = schedule.loss_weighting == "uncertainty"
    return nn.Parameter(torch.zeros(len(tasks), device=device)) if wanted else None


def weigh(log_variances: Tensor, tasks: Mapping[str, Task]) -> Tensor:
    """What the loss of each head counts, (heads,)."""
    halves = [0.5 if task.config.kind == "regression" else 1.0 for task in tasks.values()]
    return (-log_variances).exp() * log_variances.new_tensor(halves)


def penalise(log_variances: Tensor, labelled: Tensor) -> Tensor:
    """What keeps the variances of the heads that have labels from growing.

    Args:
        log_variances: (heads,).
        labelled: which heads have labels in the batch, (heads,).
    """
    return (log_variances / 2 * labelled).sum()


def backward_upgrad(losses: Tensor, model: ClassyModel) -> None:
    """Adds to the gradients: those of heads are their losses' own, and those of the trunk conflict with none.

    Without conflicts the trunk's are those of the sum.

    Args:
        losses: (heads,).
        model: whose heads gave them.
    """
    from torchjd.aggregation import UPGrad  # an extra
    from torchjd.autojac import backward, jac_to_grad

    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    shared = [p for name, p in learning.items() if not head_of(name)]
    own = [p for name, p in learning.items() if head_of(name)]
    there = [loss for loss in losses.unbind() if loss.requires_grad]
    if not shared:
        losses.sum().backward()  # type: ignore[no-untyped-call]  # of torch
        return
    if own:
        torch.autograd.backward(losses.sum(), inputs=own, retain_graph=True)
    backward(there, inputs=shared, parallel_chunk_size=1)
    jac_to_grad(shared, UPGrad(pref_vector=losses.new_ones(len(there))))
