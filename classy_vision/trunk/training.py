"""What trains: ``decide`` is the only function that says so.

Of the trunk's parameters those do that some head depends on, or all of them where ``train_all`` was called, but
for those that ``freeze`` holds. A user's own ``requires_grad_(False)`` on a part is left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from classy_vision.trunk.features import Trace, trace
from classy_vision.trunk.names import END
from classy_vision.trunk.sequence import told_channels
from classy_vision.trunk.undo import all_or_nothing
from classy_vision.weights.state import head_of


@dataclass(frozen=True)
class Training:
    """What keeps parameters of a trunk out of training.

    Attributes:
        frozen_until: the last step that ``freeze`` holds.
        frozen: names of the parameters that ``freeze`` holds.
        in_evaluation: names of the modules that stay in evaluation.
        all: whether parameters that no head depends on train as well.
        held: names of the parameters that have ``requires_grad=False`` for one of these reasons, and not
            because a user said so.
    """

    frozen_until: str | None = None
    frozen: frozenset[str] = field(default=frozenset(), repr=False)
    in_evaluation: frozenset[str] = field(default=frozenset(), repr=False)
    all: bool = False
    held: frozenset[str] = field(default=frozenset(), repr=False)


def decide(trunk: Any, traced: Trace | None) -> None:
    """Takes gradients from what does not train, and gives them back to what does again.

    Args:
        trunk: with its heads, and with what it was told in ``_training_state``.
        traced: what ``look`` gave for its heads.
    """
    state: Training = trunk._training_state
    parameters = trunk_parameters(trunk)
    unused = set() if state.all else find_unused(trunk, trunk.head_steps(), parameters, traced)
    through = tuple(f"{name}." for name in trunk.modules_for_heads())
    unused = {name for name in unused if not name.startswith(through)}
    wanted = {name for name, p in parameters.items() if p.requires_grad or name in state.held}
    held = frozenset(wanted & (state.frozen | unused))
    trunk._training_state = replace(state, held=held)
    for name in wanted:
        if parameters[name].requires_grad == (name in held):
            parameters[name].requires_grad_(name not in held)
    for name in held:
        parameters[name].grad = None


def look(trunk: Any, steps: Iterable[str]) -> Trace | None:
    """What the features of ``steps`` depend on, where the family has not told; None where it has.

    Raises:
        ConfigError: the trunk cannot be run without data.
    """
    steps = set(steps)
    return None if not steps or told_channels(trunk) else trace(trunk, trunk.input_shape, steps, gradients=True)


def find_unused(
    trunk: Any, steps: Collection[str], parameters: Iterable[str], traced: Trace | None
) -> set[str]:
    """The names of the parameters that no feature of ``steps`` depends on; none where that is not known."""
    if traced:
        return traced.unread(steps)
    if not steps or not told_channels(trunk):
        return set()
    order = trunk._steps()
    later = _prefixes(trunk, order[order.index(trunk._deepest(steps)) + 1 :])
    return {name for name in parameters if name.startswith(later)}


def freeze_until(trunk: Any, until: str | None) -> None:
    """Holds what the step ``until`` depends on, and ends what was held before; see ``Trunk.freeze``."""
    before: Training = trunk._training_state
    parameters, modules = _find_made_by(trunk, until) if until else (frozenset(), frozenset())
    traced = trunk._look()
    with all_or_nothing(trunk):
        trunk._training_state = replace(before, frozen_until=until, frozen=parameters, in_evaluation=modules)
        decide(trunk, traced)
        for name, module in trunk.named_modules():
            if name in modules:
                module.training = False
            elif name in before.in_evaluation:
                module.training = trunk.training


def set_gradients(trunk: Any, requires_grad: bool, train_all: bool) -> None:
    """Sets ``requires_grad`` of all parameters but those that do not train, whole or not at all."""
    traced = trunk._look()
    with all_or_nothing(trunk):
        trunk._training_state = replace(trunk._training_state, held=frozenset(), all=train_all)
        for parameter in trunk.parameters():
            parameter.requires_grad_(requires_grad)
        decide(trunk, traced)


def find_layers(trunk: Any) -> dict[str, int]:
    """The layer of each parameter by name; see ``Trunk.parameter_layers``."""
    numbers: dict[str, int] = {}
    for step in trunk._steps():
        joins = any(step == name or step.startswith(f"{name}-") for name in trunk.ends_of_layers)
        numbers[step] = max(numbers.values(), default=-1) + (not joins or not numbers)
    last = max(numbers.values()) + (END in trunk.ends_of_layers)
    found = dict.fromkeys((name for name, _ in trunk.named_parameters()), last)
    parameters = trunk_parameters(trunk)
    if told_channels(trunk):
        paths = {f"{trunk._route().path(trunk, step)}.": number for step, number in numbers.items()}
        told = {name: paths[path] for name in parameters for path in paths if name.startswith(path)}
        return _close_ranks({**found, **dict.fromkeys(parameters, 0), **told})
    traced = trace(trunk, trunk.input_shape, set(numbers), gradients=True)
    for step, number in reversed(numbers.items()):
        found |= dict.fromkeys(parameters.keys() - traced.unread({step}), number)
    return _close_ranks(found)


def _close_ranks(layers: dict[str, int]) -> dict[str, int]:
    """The numbers without those of layers that have no parameters."""
    ranks = {number: rank for rank, number in enumerate(sorted(set(layers.values())))}
    return {name: ranks[number] for name, number in layers.items()}


def trunk_parameters(trunk: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of no head, by name."""
    return {name: p for name, p in trunk.named_parameters() if not head_of(name)}


def _find_made_by(trunk: Any, until: str) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the parameters and modules that make the feature of a step."""
    names = trunk_parameters(trunk)
    modules = [name for name, _ in trunk.named_modules() if name]
    if told_channels(trunk):
        order = trunk._steps()
        parts = _prefixes(trunk, order[: order.index(until) + 1])
        return (
            frozenset(name for name in names if name.startswith(parts)),
            frozenset(name for name in modules if f"{name}.".startswith(parts)),
        )
    traced = trace(trunk, trunk.input_shape, until, gradients=True)
    unused = {name for name in traced.unread({until}) if not head_of(name)}
    finished = {*traced.finished, trunk._route().path(trunk, until)} - {""}
    # A module that has run may hold a branch that the step does not depend on.
    made_by = {name for name in finished if not any(other.startswith(f"{name}.") for other in unused)}
    return frozenset(names.keys() - unused), frozenset(made_by)


def _prefixes(trunk: Any, steps: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{trunk._route().path(trunk, step)}." for step in steps)
