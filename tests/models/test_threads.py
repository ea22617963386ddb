"""A model that threads run while others look at it: every answer right, none failed."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classy_vision.cost import count, measure
from classy_vision.cost.picture.write import draw
from classy_vision.engines import optimize
from classy_vision.export import export
from classy_vision.models import ClassyModel
from classy_vision.models.classy_model import ModelAdapter
from classy_vision.trunk.saving import save_weights
from tests.models.small import batch, build
from tests.trunk.test_hooks import headed

THREADS, CALLS = 8, 200
LOOKS: dict[str, Callable[[ClassyModel], Any]] = {
    "block_names": lambda model: model.block_names,
    "check_input": lambda model: model.check_input(batch()),
    "copy": copy.deepcopy,
    "count": count,
    "draw": lambda model: draw(count(model), Path("model.svg"), title="a model"),
    "export": lambda model: export(
        model, Path("model.pt2"), format="exported-program", example=batch(2), force=True
    ),
    "feature_info": lambda model: model.feature_info(),
    "foreign_key_maps": lambda model: model.foreign_key_maps(),
    "get_classy_state": lambda model: model.get_classy_state(deep_copy=True),
    "get_heads": lambda model: model.get_heads(),
    "memory": lambda model: [count(model).memory(2, training=training) for training in (False, True)],
    "measure": lambda model: measure(model, batch=2, warmup=0, rounds=1),
    "optimize": lambda model: optimize(model, batch(3)),
    "pickle": pickle.dumps,
    "receptive_field": lambda model: [step.receptive_field for step in count(model).steps],
    "repr": repr,
    "save_weights": lambda model: save_weights(model, Path("weights.safetensors")),
    "state_dict": lambda model: model.state_dict(),
    "to_config": lambda model: None if isinstance(model, ModelAdapter) else model.to_config(),
}


@pytest.fixture(autouse=True)
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def of(name: str) -> ClassyModel:
    torch.manual_seed(0)
    return headed().eval() if name == "from_model" else build(name).eval()


def bad_calls(model: ClassyModel, beside: Callable[[], Any], calls: int = CALLS) -> list[str]:
    """Runs forward and features in threads, and ``beside`` until they are done; gives what went wrong."""
    early, late = list(model.get_heads())
    inputs = [batch(seed=seed) for seed in range(THREADS)]
    with torch.no_grad():
        wanted = [(model(x), model.features(x, [early, late])) for x in inputs]
    bad: list[str] = []

    def same(given: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
        return given.keys() == right.keys() and all(
            torch.allclose(given[key], right[key], rtol=1e-4, atol=1e-5) for key in right
        )

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(calls // 2):
                try:
                    given = model(inputs[index]), model.features(inputs[index], [early, late])
                    if not all(map(same, given, wanted[index])):
                        bad.append("a wrong answer")
                except Exception as error:
                    bad.append(repr(error))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
    for worker in workers:
        worker.start()
    try:
        while True:
            beside()
            if not any(worker.is_alive() for worker in workers):
                return bad
    finally:
        for worker in workers:
            worker.join()


@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", ["regnet", "densenet", "vision_transformer", "from_model"])
def test_forward_beside_a_look(name: str, look: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = of(name)
    monkeypatch.chdir(tmp_path)
    assert bad_calls(model, lambda: LOOKS[look](model)) == []
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("look", ["feature_info", "count", "memory", "optimize"])
def test_a_few_calls_beside_a_look(look: str) -> None:
    model = of("from_model")
    assert bad_calls(model, lambda: LOOKS[look](model), calls=20) == []


@pytest.mark.parametrize("calls", [20, pytest.param(CALLS, marks=pytest.mark.slow)])
def test_forward_while_heads_change(calls: int) -> None:
    """Each call has the heads that there were when it began."""
    model = of("regnet")
    full, x = model.get_heads(), batch()
    with torch.no_grad():
        wanted = {len(entries): self_of(model, entries, x) for entries in ({}, full)}
    model.set_heads(full)
    bad: list[str] = []

    def work() -> None:
        with torch.no_grad():
            for _ in range(calls):
                try:
                    given = model(x)
                    right = wanted[2 if isinstance(given, dict) else 0]
                    torch.testing.assert_close(given, right, rtol=1e-4, atol=1e-5)
                except Exception as error:
                    bad.append(repr(error))

    workers = [threading.Thread(target=work) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        model.clear_heads()
        model.set_heads(full)
    assert bad == []


def self_of(model: ClassyModel, heads: Any, x: Tensor) -> Any:
    model.set_heads(heads)
    return model(x)


@pytest.mark.parametrize("models", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_several_threads_look(models: int) -> None:
    for _ in range(models):
        model = of("from_model")
        looks = [threading.Thread(target=model.feature_info) for _ in range(4)]
        for look in looks:
            look.start()
        for look in looks:
            look.join()
        assert not any(tensor.is_meta for tensor in model.state_dict().values())
        assert model(batch()).keys() == {"early", "late"}
