"""What looks at a model works on a twin, and leaves the model alone."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.cost import count, measure
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel
from classy_vision.trunk.meta import OnMeta
from classy_vision.trunk.twin import outline_of, twin_of
from tests.models.small import FAMILIES, batch, build


class Odd(nn.Module):
    """Modules and parameters in all the places where Python can keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.tied = nn.Conv2d(3, 4, 3)
        self.tied.weight = self.conv.weight
        self.lock = threading.Lock()
        self.calls: list[Any] = [self.conv, {"norm": self.norm}]
        self.bound = self.norm.forward
        self.partial = functools.partial(self._scaled, factor=2.0)
        self.closure = lambda x: self.calls[1]["norm"](x)
        self.weights = [self.conv.weight]
        self.last = nn.Linear(4, 5)
        self.seen: dict[str, Tensor] = {}

    def _scaled(self, x: Tensor, factor: float) -> Tensor:
        return x * factor * self.weights[0].sum()

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            x = self.closure(self.partial(self.bound(self.calls[0](x) + self.tied(x))))
        self.seen["last"] = x
        return self.last(x.flatten(2).transpose(1, 2))


def state_of(model: nn.Module) -> list[Any]:
    """Everything that a look could change, by identity."""
    tensors = [(name, id(t), t.device, t.requires_grad) for name, t in model.state_dict(keep_vars=True).items()]
    modules = [(name, id(m), m.training, len(m._forward_hooks)) for name, m in model.named_modules()]
    return [*tensors, *modules]


def odd() -> ClassyModel:
    return ClassyModel.from_model(Odd(), ["norm"], (3, 16, 16))


def test_a_twin_of_anything_gives_the_same() -> None:
    model = Odd().eval()
    twin = twin_of(model)
    assert torch.equal(twin(batch()), model(batch()))
    assert model.seen is not twin.seen
    assert twin.lock is model.lock
    assert twin.train().training
    assert not model.training
    assert not model.norm.training


def test_an_outline_reaches_every_place() -> None:
    model = Odd().eval()
    before = state_of(model)
    outline = outline_of(model)
    with OnMeta():
        assert outline(batch().to("meta")).shape == (2, 900, 5)
    assert outline.conv.weight is outline.tied.weight is outline.weights[0]
    assert all(t.is_meta for t in outline.state_dict().values())
    assert state_of(model) == before
    assert model.seen == {}


def test_hooks_run_on_the_twin() -> None:
    model = Odd().eval()
    model.conv.register_forward_hook(lambda module, args, output: output + model.norm.weight[:, None, None])
    with OnMeta():
        assert outline_of(model)(batch().to("meta")).is_meta
    handle = twin_of(model).conv.register_forward_hook(lambda *_: None)
    assert len(model.conv._forward_hooks) == 1
    handle.remove()


def test_scripted_modules_have_twins() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    model = nn.Sequential(scripted, nn.Conv2d(4, 2, 1)).eval()
    with OnMeta():
        assert outline_of(model)(batch().to("meta")).shape == (2, 2, 30, 30)
    assert not model[0].state_dict()["0.weight"].is_meta


def test_a_compiled_module_is_looked_at_as_it_is_written() -> None:
    model = build("regnet").eval()
    model.compile(backend=lambda graph, inputs: pytest.fail("compiled"))
    assert model.feature_info(["block1"])["block1"].channels > 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_looks_leave_the_model_alone(family: str, training: bool) -> None:
    model = build(family).train(training)
    before = state_of(model)
    numbers = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.feature_info()
    costs = count(model)
    costs.memory(2, training=True)
    measure(model, batch=2, warmup=0, rounds=1)
    assert state_of(model) == before
    assert all(torch.equal(tensor, numbers[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("fail", [RuntimeError("no"), KeyboardInterrupt(), ConfigError("no")])
def test_a_look_that_fails_leaves_the_model_alone(fail: BaseException) -> None:
    model = odd().train()
    looks: list[Any] = [
        lambda: model.feature_info(),
        lambda: count(model),
        lambda: model.set_heads({"norm": [FullyConnectedHead("a", 2)]}),
    ]

    def stop(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].is_meta:
            raise fail

    model.model.last.register_forward_pre_hook(stop)
    model.model.norm.register_forward_pre_hook(stop)
    before = state_of(model)
    for look in looks:
        with pytest.raises(type(fail) if isinstance(fail, KeyboardInterrupt) else ConfigError):
            look()
        assert state_of(model) == before
