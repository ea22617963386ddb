"""Estimates of memory: exact where that can be said, and near what the allocator gives out."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, UnknownNameError
from classy_vision.cost import Costs, Memory, OnMeta, count
from classy_vision.models import ClassyModel, build_model
from tests.cost.peaks import FAMILIES, compare
from tests.cost.test_count import HEADS, TINY

SMALL = {**TINY, "num_classes": 10}


def memory(config: Any, batch: int = 8, **options: Any) -> Memory:
    with OnMeta():
        model = build_model(config)
    return count(model.eval()).memory(batch, **options)


def of(module: nn.Module, shape: tuple[int, ...], batch: int, **options: Any) -> Memory:
    return count(ClassyModel.from_model(module, input_shape=shape).eval()).memory(batch, **options)


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_allocator_gives_out(family: str, training: bool) -> None:
    estimate, measured = compare(family, training)
    assert estimate.peak == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_what_the_allocator_gives_out_for_an_mlp(training: bool) -> None:
    estimate, measured = compare("MLP", training)
    assert estimate.peak == pytest.approx(measured, rel=0.02)


def test_inference_holds_what_a_layer_reads_and_gives() -> None:
    found = of(nn.Sequential(nn.Linear(100, 300), nn.Tanh(), nn.Linear(300, 50)), (100,), 10)
    assert found.weights == 4 * (101 * 300 + 301 * 50)
    # The input, which the caller holds, and what the activation reads and gives.
    assert found.activations == 4 * 10 * (100 + 300 + 300)
    assert found.peak == found.weights + found.activations
    assert found.gradients == 0


def test_training_keeps_what_the_backward_pass_reads() -> None:
    module = nn.Sequential(nn.Linear(100, 300), nn.Tanh(), nn.Linear(300, 50))
    found = of(module, (100,), 10, training=True)
    assert found.gradients == found.weights
    # What the layers read; the output is alive, too.
    assert found.steps == (4 * 10 * (300 + 50),)


def test_resting_parameters_have_no_gradients() -> None:
    heads = [{**HEADS[1], "fork_block": "block1"}]
    found = memory({**TINY, "heads": heads}, training=True)
    assert 0 < found.gradients < found.weights / 2


@pytest.mark.parametrize("training", [False, True])
def test_it_grows_with_the_batch(training: bool) -> None:
    one, two = (memory(SMALL, batch, training=training) for batch in (8, 16))
    assert two.weights == one.weights
    assert two.activations == pytest.approx(2 * one.activations, rel=0.02)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("training", [False, True])
def test_it_goes_by_the_type(dtype: str, training: bool) -> None:
    wide, other = memory(SMALL, training=training), memory(SMALL, dtype=dtype, training=training)
    factor = {"float64": 2.0}.get(dtype, 0.5)
    assert other.peak == pytest.approx(factor * wide.peak, rel=0.01)


def test_steps_are_those_that_run() -> None:
    costs = count(build_model(TINY, heads=HEADS))
    for training in (False, True):
        assert len(costs.memory(4, training=training).steps) == len(costs.running.steps)
    assert max(costs.memory(4).steps) == costs.memory(4).activations


def test_a_head_that_reads_early_keeps_little() -> None:
    early = [{**HEADS[0], "fork_block": "stem"}]
    assert memory({**TINY, "heads": early}).peak < memory({**TINY, "heads": HEADS}).peak + 1
    assert len(memory({**TINY, "heads": early}).steps) == 2


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "vit_b_32"])
def test_recomputing_takes_less(name: str) -> None:
    config = {"name": name, "num_classes": 10}
    kept, again = (
        memory({**config, "gradient_checkpointing": on}, 32, training=True).peak for on in (False, True)
    )
    assert again < 0.9 * kept


def test_densenets_share_memory() -> None:
    """Plain concatenations would keep every layer's input again."""
    found = memory({"name": "densenet121", "num_classes": 10}, 4, training=True)
    assert sum(found.steps) < 150e6  # 500 MB otherwise


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_attention_keeps_no_scores(device: str) -> None:
    layer = {"num_layers": 1, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 64, "patch_size": 16}
    config = {"name": "vision_transformer", "image_size": 512, "classifier": "token", **layer}
    found = memory(config, 2, device=device, training=True)
    scores = 4 * 2 * 12 * (32 * 32 + 1) ** 2
    assert max(found.steps) < scores


def test_the_model_is_left_as_it_was() -> None:
    model = build_model(TINY, heads=HEADS, stochastic_depth=0.5)
    model.stem.eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    count(model).memory(4, training=True)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_costs_can_be_copied_and_pickled() -> None:
    costs = count(build_model(SMALL))
    for other in (copy.deepcopy(costs), pickle.loads(pickle.dumps(costs))):
        assert other == costs
        assert other.memory(4) == costs.memory(4)


class Doubled(nn.Module):
    """A module with operators that no shape is written down for."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.double().exp().cumsum(-1) / x.sum(-1, keepdim=True)).float()


@pytest.mark.parametrize("training", [False, True])
def test_any_operator_will_do(training: bool) -> None:
    found = of(nn.Sequential(nn.Linear(100, 300), Doubled()), (100,), 10, training=training)
    assert found.peak > found.weights + 2 * 8 * 10 * 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch = 0: a batch has one sample or more"),
        ({"dtype": "float23"}, "unknown dtype 'float23'; did you mean 'float32'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_options_that_there_are_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        memory(SMALL, **options)
    assert isinstance(error.value, UnknownNameError) or "batch" in message


def test_a_norm_of_one_value() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert of(module, (3,), 1).peak > 0
    with pytest.raises(ConfigError, match=r"cannot take a batch of \(1, 3\) in training: Expected more"):
        of(module, (3,), 1, training=True)


def test_costs_without_a_model() -> None:
    with pytest.raises(TypeError, match="do not hold their model"):
        Costs((3,), ()).memory()
