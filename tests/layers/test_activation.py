"""Activations by name, and a SiLU that costs autograd no copy."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from classy_vision.layers.activation import ActivationType, activation_name, new_activation


class Calls(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def given(requires_grad: bool) -> Tensor:
    """What is no leaf, as the input of an activation in a network."""
    return torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=requires_grad) * 1


@pytest.mark.parametrize("kind", ActivationType)
def test_by_name(kind: ActivationType) -> None:
    wanted = getattr(F, kind.value)(given(False))
    for requires_grad in (False, True):
        for inplace in (False, True):
            found = new_activation(kind.value, inplace)(given(requires_grad))
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


# torch has no GELU that works in place.
@pytest.mark.parametrize("kind", [kind for kind in ActivationType if kind is not ActivationType.GELU])
def test_in_place_without_a_gradient(kind: ActivationType) -> None:
    x = given(False)
    assert new_activation(kind)(x) is x
    assert new_activation(kind, inplace=False)(x) is not x


@pytest.mark.parametrize("kind", ActivationType)
def test_a_step_of_training_copies_nothing(kind: ActivationType) -> None:
    x = given(True)
    with Calls() as calls:
        new_activation(kind)(x).sum().backward()
    assert not calls.seen["clone"]
    assert not calls.seen["copy_"]


def test_tracers() -> None:
    act = new_activation(ActivationType.SILU)
    torch.testing.assert_close(fx.symbolic_trace(act)(given(False)), F.silu(given(False)))
    torch.testing.assert_close(
        torch.export.export(act, (given(False),)).module()(given(False)), act(given(False))
    )


@pytest.mark.parametrize("kind", list(ActivationType))
def test_names_of_torchs_own_modules(kind: ActivationType) -> None:
    ours = new_activation(kind)
    theirs = getattr(nn, type(ours).__name__)()
    assert activation_name(ours) == activation_name(theirs) == kind.value


def test_another_function_has_no_name() -> None:
    assert activation_name(nn.GELU("tanh")) is None
    assert activation_name(nn.Tanh()) is None
