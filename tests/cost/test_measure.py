"""Measuring: every step that runs, nothing of the model touched, and errors before any work."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from classy_vision.config import ConfigError
from classy_vision.cost import OnMeta, Timing, count, free_memory, measure
from classy_vision.models import ClassyModel, build_model
from tests.cost.test_count import HEADS, TINY

QUICK: dict[str, Any] = {"warmup": 1, "rounds": 3}
SHAPE = (3, 32, 32)


@pytest.fixture
def model() -> ClassyModel:
    return build_model(TINY, heads=HEADS)


def test_every_step_that_runs(model: ClassyModel) -> None:
    found = measure(model, SHAPE, batch=2, **QUICK)
    running = count(model, SHAPE).running
    assert list(found.steps) == [(step.name, step.reads) for step in running.steps]
    assert list(found.latencies) == [step.name for step in running.steps]
    assert all(0 < t.low <= t.median <= t.high for t in (found.whole, *found.steps.values()))
    assert found.latency == found.whole.median
    assert found.throughput == pytest.approx(2000 / found.latency)


@pytest.mark.parametrize("training", [False, True])
def test_memory_is_what_was_estimated(training: bool) -> None:
    model = build_model(TINY, heads=HEADS)
    found = measure(model, (3, 96, 96), batch=4, training=training, **QUICK)
    assert found.memory == pytest.approx(count(model, (3, 96, 96)).memory(4, training=training).peak, rel=0.15)


@pytest.mark.parametrize(
    "options",
    [{}, {"dtype": "bfloat16"}, {"channels_last": True}, {"training": True}, {"dtype": "float64", "batch": 3}],
    ids=str,
)
def test_the_model_is_left_as_it_was(model: ClassyModel, options: dict[str, Any]) -> None:
    before = copy.deepcopy(model.state_dict())
    measure(model, SHAPE, **{"batch": 2, **QUICK, **options})
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for key, value in model.state_dict().items():
        assert value.dtype == before[key].dtype
        assert value.stride() == before[key].stride()
        assert torch.equal(value, before[key])


def test_a_model_without_heads() -> None:
    assert list(measure(build_model(TINY), SHAPE, **QUICK).steps)[-1] == ("trunk_output", None)


def test_a_module_whose_forward_is_its_own() -> None:
    module = nn.Sequential(nn.Conv2d(3, 64, 9, padding=4), nn.ReLU(), nn.Conv2d(64, 2, 1), nn.Flatten())
    model = ClassyModel.from_model(module, blocks={"wide": "0", "narrow": "2"}, input_shape=SHAPE)
    found = measure(model, **QUICK)
    assert list(found.latencies) == ["wide", "narrow", "trunk_output"]
    assert found.latencies["wide"] > found.latencies["narrow"]
    assert [len(part._forward_hooks) for part in module] == [1, 0, 1, 0]  # those of the trunk


def test_clips() -> None:
    module = nn.Sequential(nn.Conv3d(3, 4, 3), nn.Flatten())
    model = ClassyModel.from_model(module, input_shape=(3, 4, 8, 8))
    assert measure(model, channels_last=True, **QUICK).latency > 0


@pytest.mark.slow
def test_compiled(model: ClassyModel) -> None:
    found = measure(model, SHAPE, compile=True, **QUICK)
    assert list(found.steps) == list(measure(model, SHAPE, **QUICK).steps)
    assert not any(module._compiled_call_impl for module in model.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch = 0"),
        ({"rounds": 0}, "rounds = 0: give 1 or more"),
        ({"warmup": -1}, "warmup = -1: give 0 or more"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"device": "cpu:4"}, "unknown device 'cpu:4'"),
        ({"device": "cpu:²"}, "unknown device 'cpu:²'"),
        ({"device": "cpu:" + "9" * 5000}, "unknown device 'cpu:999"),
        ({"input_shape": (1, 32, 32)}, "AnyNet cannot take an input of"),
        ({"input_shape": (3,), "channels_last": True}, r"not for an input of \(3,\)"),
    ],
)
def test_options_that_there_are_not(model: ClassyModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure(model, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(model: ClassyModel) -> None:
    with pytest.raises(ConfigError, match=r"device 'cuda': torch .* sees no GPU here"):
        measure(model, device="cuda")


def test_too_little_memory(model: ClassyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "find_free", lambda device: 1_000_000)
    with pytest.raises(
        ConfigError, match=r"AnyNet needs about .*MB of memory for a batch of 64 in float32, and "
    ):
        measure(model, batch=64)


def test_an_allocation_that_fails(model: ClassyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "find_free", lambda device: None)
    with pytest.raises(ConfigError, match=r"a batch of \(1000000000, .*\) in .* on cpu: ") as error:
        measure(model, batch=10**9)
    assert "\n" not in str(error.value)


def test_a_model_without_weights() -> None:
    with OnMeta():
        model = build_model(TINY)
    with pytest.raises(ConfigError, match="without weights it cannot run"):
        measure(model)


def test_free_memory() -> None:
    free = free_memory.find_free(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e15


def test_quartiles() -> None:
    assert Timing.of([5.0]) == Timing(5.0, 5.0, 5.0)
    assert Timing.of([5.0, 1.0, 2.0, 3.0, 4.0]) == Timing(3.0, 2.0, 4.0)
