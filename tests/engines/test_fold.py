"""Forwards that rewriting could get wrong: what is shared, changed in place, broadcast or read twice."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from classy_vision.engines import optimize
from classy_vision.models import ClassyModel
from tests.engines.test_optimized import agree, worn
from tests.models.small import batch, build

Forward = Callable[..., Tensor]


class Block(nn.Module):
    """Layers by name, and what is done with them."""

    def __init__(self, forward: Forward, **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.position = nn.Parameter(torch.randn(1, 8, 16, 16))
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x, **self.layers)


def conv(out: int = 8, kernel: int = 1) -> nn.Conv2d:
    return nn.Conv2d(8, out, kernel, padding=kernel // 2)


def norm() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(8)


def gate() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), nn.Sigmoid())


def branches(self: Block, x: Tensor, n: nn.Module, a: nn.Module, m: nn.Module, b: nn.Module) -> Tensor:
    return a(F.relu(n(x))) + b(F.relu(m(x)))


def excited(self: Block, x: Tensor, a: nn.Module, act: nn.Module, g: nn.Module) -> Tensor:
    y = a(x)
    z = act(y)
    return z * g(z.mean((2, 3), keepdim=True)) + y


def ignored(self: Block, x: Tensor, a: nn.Module, act: nn.Module) -> Tensor:
    y = a(x)
    act(y)
    return y * 2


def changed(self: Block, x: Tensor, a: nn.Module, b: nn.Module, act: nn.Module) -> Tensor:
    y = a(x)
    out = b(y)
    return out + act(y)


def passed_on(self: Block, x: Tensor, nothing: nn.Module, g: nn.Module) -> Tensor:
    x = nothing(x)
    return x * g(x.mean((2, 3), keepdim=True))


def pre_activated() -> nn.Sequential:
    return nn.Sequential(norm(), nn.ReLU(), conv(16))


CASES: dict[str, Callable[[], nn.Module]] = {
    "two pre-activated branches": lambda: Block(
        lambda self, x, a, b: a(x) + b(x), a=pre_activated(), b=pre_activated()
    ),
    "two norms, then two convolutions": lambda: Block(branches, n=norm(), a=conv(), m=norm(), b=conv()),
    "a convolution with two norms": lambda: Block(
        lambda self, x, a, n, m: m(a(F.relu(n(a(x))))), a=conv(), n=norm(), m=norm()
    ),
    "a convolution that is called twice": lambda: Block(
        lambda self, x, a, act: a(act(a(x))), a=conv(kernel=3), act=nn.ReLU()
    ),
    "a norm that is called twice": lambda: Block(
        lambda self, x, n, a: n(F.avg_pool2d(a(F.relu(n(x))), 2)), n=norm(), a=conv()
    ),
    "positions behind a convolution": lambda: Block(lambda self, x, a: a(x) + self.position, a=conv()),
    "positions behind a linear layer": lambda: Block(
        lambda self, x, a: a(x) + self.position, a=nn.Linear(16, 16)
    ),
    "a norm behind a linear layer": lambda: Block(
        lambda self, x, a, n: n(a(x.mean(2))), a=nn.Linear(16, 8), n=nn.BatchNorm1d(8)
    ),
    "a gate on an alias": lambda: Block(excited, a=conv(), act=nn.ReLU(inplace=True), g=gate()),
    "a gate on the input": lambda: Block(passed_on, nothing=nn.AlphaDropout(0.5), g=gate()),
    "in place, and nobody reads it": lambda: Block(ignored, a=conv(), act=nn.ReLU(inplace=True)),
    "a sum behind a change in place": lambda: Block(changed, a=conv(), b=conv(), act=nn.ReLU(inplace=True)),
}


def trunk(*blocks: nn.Module) -> ClassyModel:
    torch.manual_seed(0)
    net = nn.Sequential(conv(), *blocks)
    names = [str(i) for i in range(len(blocks) + 1)]
    return worn(ClassyModel.from_model(net, names, input_shape=(8, 16, 16)))


@pytest.mark.parametrize("case", CASES)
def test_same_numbers(case: str) -> None:
    torch.manual_seed(0)
    model = trunk(CASES[case]())
    x = torch.randn(3, 8, 16, 16)
    for options in ({}, {"pack": False}):
        fast = optimize(model, x[:1], **options)
        assert fast.untraced == ()
        with torch.inference_mode():
            wanted, given = model.features(x, ["0", "1"]), fast.features(x, ["0", "1"])
        agree(given, wanted, 1e-5)


def test_a_convolution_of_two_blocks() -> None:
    shared = conv(kernel=3)
    model = trunk(nn.Sequential(shared, norm()), nn.Sequential(shared, norm()))
    x = torch.randn(2, 8, 16, 16)
    agree({"": optimize(model, x)(x)}, {"": model(x)}, 1e-5)


def test_hooks_and_parametrizations_are_left_alone() -> None:
    model = trunk(nn.Sequential(nn.utils.parametrizations.weight_norm(conv()), norm()))
    calls: list[int] = []
    model.model.get_submodule("1.0").register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(2, 8, 16, 16)
    fast = optimize(model, x)
    calls.clear()
    agree({"": fast(x)}, {"": model(x)}, 1e-5)
    assert len(calls) == 2  # one of each


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gain", [0.0, 1e-45, 1e-37, 1e-7, -1e-7, -1e-37])
def test_gains_that_are_next_to_nothing(gain: float, dtype: torch.dtype) -> None:
    model = trunk(nn.Sequential(norm(), nn.ReLU(), conv(16)))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[::2] = gain
    x = torch.randn(2, 8, 16, 16)
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    agree({"": optimize(model, x, dtype=dtype)(x)}, {"": model(x)}, bound)


def test_attention_of_other_shapes() -> None:
    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q = nn.Parameter(torch.randn(1, 2, 3, 16))

        def forward(self, x: Tensor) -> Tensor:
            k = x.flatten(2)[:, :, :32].unflatten(2, (2, 16)).transpose(1, 2)
            return F.scaled_dot_product_attention(self.q, k, k)

    model = ClassyModel.from_model(nn.Sequential(conv(), Queries()), ["1"], input_shape=(8, 16, 16)).eval()
    fast = optimize(model, torch.randn(1, 8, 16, 16), dtype="bfloat16", tolerance=0.1)
    assert fast(torch.randn(3, 8, 16, 16)).shape == (3, 2, 3, 16)


def test_blocks_can_be_called_alone() -> None:
    model = worn(build("densenet"))
    fast = optimize(model, batch(4))
    with torch.inference_mode():
        first = fast.features(batch(4), ["block0-0"])["block0-0"]
        half = fast.blocks["block0-1"](first[2:])
        wanted = model.features(batch(4), ["block0-1"])["block0-1"][2:]
        assert torch.allclose(half, wanted, atol=1e-4)
    assert torch.allclose(fast.blocks["block0-1"](first[2:].clone()), wanted, atol=1e-4)


def test_autocast_changes_nothing() -> None:
    for family in ("vision_transformer", "densenet"):
        fast = optimize(build(family), batch())
        wanted = fast(batch())
        with torch.autocast("cpu", torch.bfloat16):
            agree(fast(batch()), wanted, 0.0)


def test_many_threads_optimize_and_run() -> None:
    model = worn(build("regnet"))
    wanted, other, errors = model(batch()), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), []

    def work(index: int) -> None:
        try:
            for _ in range(3):
                if index:
                    agree(optimize(model, batch())(batch()), wanted, 1e-5)
                else:
                    for _ in range(300):
                        other(torch.ones(1, 4))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    other(torch.ones(1, 4))  # nothing is left patched
