"""The sum at the end of a residual block: in place where that is safe, and never with another result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from classy_vision.layers.residual import add_shortcut


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return add_shortcut(self.branch(x), x)


@pytest.mark.parametrize("grad", [False, True])
def test_in_the_memory_of_the_branch(grad: bool) -> None:
    branch, shortcut = torch.randn(2, 3), torch.randn(2, 3)
    wanted = branch + shortcut
    with torch.set_grad_enabled(grad):
        found = add_shortcut(branch, shortcut)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert found.data_ptr() == branch.data_ptr()


def test_gradients() -> None:
    block, x = Block().double(), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, x)
    assert torch.autograd.gradgradcheck(block, x)


def test_wider_types_are_kept() -> None:
    branch, shortcut = torch.ones(2, dtype=torch.bfloat16), torch.full((2,), 2.0**-12)
    assert add_shortcut(branch, shortcut).tolist() == [1 + 2.0**-12] * 2
    assert branch.tolist() == [1, 1]


def test_hooks_for_gradients() -> None:
    """They make a view of the branch, in which autograd lets nobody write."""
    block, seen = Block(), []
    block.branch.register_full_backward_hook(lambda module, of_input, of_output: seen.append(of_output))
    block(torch.randn(2, 3, requires_grad=True)).sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("how", ["compile", "export", "fx", "vmap"])
def test_tracers_see_a_sum(how: str) -> None:
    block, x = Block().eval(), torch.randn(2, 3)
    traced = {
        "compile": lambda: torch.compile(block, fullgraph=True, backend="eager"),
        "export": lambda: torch.export.export(block, (x,)).module(),
        "fx": lambda: fx.symbolic_trace(block),
        "vmap": lambda: torch.func.vmap(block),
    }[how]()
    torch.testing.assert_close(traced(x), block(x))
