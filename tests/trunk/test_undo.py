"""Changes are made whole or not at all, wherever they are interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel
from classy_vision.trunk.loading import load_weights
from tests.models.small import build
from tests.trunk.test_twin import state_of


class FailingCopies(TorchDispatchMode):
    """A device on which the ``number``-th copy fails, and all after it."""

    def __init__(self, number: int, error: BaseException) -> None:
        super().__init__()
        self.left = number
        self.error = error

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            self.left -= 1
            if self.left < 0:
                raise self.error
        return func(*args, **(kwargs or {}))


def other(model: ClassyModel) -> dict[str, Tensor]:
    return {k: torch.full_like(v, 3) for k, v in model.state_dict().items()}


LOADS: dict[str, Callable[[ClassyModel], Any]] = {
    "load_state_dict": lambda model: model.load_state_dict(other(model)),
    "set_classy_state": lambda model: model.set_classy_state(other(model)),
    "load_trunk_state": lambda model: model.load_trunk_state(other(model)),
    "load_head_states": lambda model: model.load_head_states(other(model)),
    "load_weights": lambda model: load_weights(model, other(model)),
}


@pytest.mark.parametrize("number", [0, 1, 7, 20])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("full"), RuntimeError("device"), KeyboardInterrupt()],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("load", LOADS)
def test_a_copy_that_fails_changes_nothing(load: str, error: BaseException, number: int) -> None:
    model = build("regnet")
    before, numbers = state_of(model), {k: v.clone() for k, v in model.state_dict().items()}
    places = [t.data_ptr() for t in model.state_dict().values()]
    with pytest.raises((RuntimeError, KeyboardInterrupt)), FailingCopies(number, error):
        LOADS[load](model)
    assert state_of(model) == before
    assert {k for k, v in model.state_dict().items() if not torch.equal(v, numbers[k])} == set()
    assert [t.data_ptr() for t in model.state_dict().values()] == places


def test_loading_keeps_parameters_and_their_memory() -> None:
    model = build("regnet")
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {name: (id(t), t.data_ptr()) for name, t in model.state_dict(keep_vars=True).items()}
    LOADS["load_state_dict"](model)
    assert {name: (id(t), t.data_ptr()) for name, t in model.state_dict(keep_vars=True).items()} == before
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all((parameter == 2).all() for parameter in model.parameters())


def test_assignment_that_fails_changes_nothing() -> None:
    model = build("regnet")
    before, state = state_of(model), other(model)
    calls = 0

    class Stops(nn.BatchNorm2d):
        def _load_from_state_dict(self, *args: Any) -> None:
            nonlocal calls
            calls += 1
            raise KeyboardInterrupt

    norm = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)][-1]
    norm.__class__ = Stops
    with pytest.raises(KeyboardInterrupt):
        model.load_state_dict(state, assign=True)
    assert calls == 1
    assert state_of(model) == before


LOOKED_AT = ("trunk.py", "heads_on_blocks.py", "training.py", "module.py", "classy_head.py")


def interrupted(call: Callable[[], object], line: int) -> bool:
    """Whether ``call`` was left by an interrupt in its ``line``-th line of ours or of torch's modules."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        name = frame.f_code.co_filename
        if "undo.py" in name or not name.endswith(LOOKED_AT):
            return trace if "undo.py" not in name else None
        if event == "line":
            count += 1
            if count == line:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


CHANGES: dict[str, Callable[[ClassyModel], Any]] = {
    "set_heads": lambda model: model.set_heads({"block2": [FullyConnectedHead("new", 4)]}),
    "clear_heads": lambda model: model.clear_heads(),
    "requires_grad_": lambda model: model.requires_grad_(False),
    "train_all": lambda model: model.train_all(),
    "freeze": lambda model: model.freeze("block1"),
    "train": lambda model: model.train(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_interrupt_at_any_line_changes_all_or_nothing(change: str) -> None:
    model = build("regnet").eval()
    before = state_of(model)
    line, step = 3, 1
    while interrupted(lambda: CHANGES[change](model), line):
        if state_of(model) != before:  # it was whole when the interrupt came
            after = state_of(model)
            CHANGES[change](model)
            assert [entry[0] for entry in after] == [entry[0] for entry in state_of(model)]
            break
        line, step = line + step, step + 9
    assert line > 3


def test_heads_are_as_they_were_when_one_cannot_be_built() -> None:
    class Unbuilt(FullyConnectedHead):
        def build(self, in_plane: int) -> None:
            raise KeyboardInterrupt

    model = build("regnet")
    before, first = state_of(model), FullyConnectedHead("first", 2)
    with pytest.raises(KeyboardInterrupt):
        model.set_heads({"block1": [first, Unbuilt("second", 2)]})
    assert first.in_plane is None
    assert list(first.parameters()) == []
    assert state_of(model) == before
