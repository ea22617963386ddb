"""What decays, and how the learning rate goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel, build_model
from classy_vision.train.config import ScheduleConfig
from classy_vision.train.optimizer import (
    RULES,
    group_parameters,
    learning_rate,
    make_optimizer,
    restore_optimizer,
)
from tests.models.small import FAMILIES
from tests.models.vision_transformer.test_model import EVERYTHING
from tests.train.command import SMALL_TRUNK, head


@pytest.mark.parametrize("name", RULES)
def test_norms_and_biases_do_not_decay(name: str) -> None:
    model = build_model({**SMALL_TRUNK, "heads": [head("x", num_classes=2)]})
    model.stem.requires_grad_(False)
    optimizer = make_optimizer(model, ScheduleConfig(optimizer=name, weight_decay=0.3))  # type: ignore[arg-type]
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for key, parameter in model.named_parameters():
        vector = "norm" in key or key.endswith("bias")
        assert decay.get(id(parameter)) == (None if key.startswith("stem") else 0 if vector else 0.3)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_what_is_restored_lies_in_memory_as_its_parameters(name: Any) -> None:
    """Fused kernels go by places in memory, and a run may be resumed where weights have another layout."""
    model = build_model({**SMALL_TRUNK, "heads": [head("x", num_classes=2)]})
    schedule = ScheduleConfig(optimizer=name)
    optimizer = make_optimizer(model, schedule)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    before = optimizer.state_dict()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    after = restore_optimizer(model, schedule, before)
    for index, parameter in enumerate(p for group in after.param_groups for p in group["params"]):
        for key, value in before["state"][index].items():
            found = after.state[parameter][key]
            assert torch.equal(found, value)
            assert found.stride() == parameter.stride() or not found.dim()


def decays(model: ClassyModel) -> dict[str, bool]:
    optimizer = make_optimizer(model, ScheduleConfig(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] > 0 for group in optimizer.param_groups for p in group["params"]}
    return {name: decay[id(p)] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", [*FAMILIES, "everything"])
def test_in_every_family_convolutions_and_products_decay_and_nothing_else(family: str) -> None:
    base = FAMILIES["vision_transformer"][0] | EVERYTHING if family == "everything" else FAMILIES[family][0]
    model = build_model({**base, "heads": []})
    parts = dict(model.named_modules())
    for name, decaying in decays(model).items():
        owner, _, last = name.rpartition(".")
        kinds = (nn.Conv2d, nn.Conv3d, nn.Linear)
        product = isinstance(parts[owner], kinds) or last == "in_proj_weight"
        assert decaying == (product and last.endswith("weight")), name


class Wrapped(nn.Module):
    """A transformer of somebody else's: one name is usual, one its own."""

    def __init__(self, spared: set[str] | None = None) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.queries = nn.Parameter(torch.zeros(1, 2, 4))
        self.proj = nn.Linear(4, 4)
        self.norm = nn.LayerNorm([2, 2])
        if spared is not None:
            self.no_weight_decay = lambda: spared

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x.flatten(1)) + self.cls_token[0] + self.queries.mean(1)
        return self.norm(x.reshape(-1, 2, 2)).flatten(1)


def test_a_wrapped_module_says_what_does_not_decay() -> None:
    def decaying(module: nn.Module) -> set[str]:
        model = ClassyModel.from_model(module, input_shape=(1, 2, 2))
        return {name for name, does in decays(model).items() if does}

    assert decaying(Wrapped()) == {"model.queries", "model.proj.weight"}
    assert decaying(Wrapped({"queries"})) == {"model.proj.weight"}
    assert decaying(nn.Sequential(Wrapped({"queries"}))) == {"model.0.proj.weight"}


def test_a_checkpoint_in_which_tokens_decayed_is_gone_on_with() -> None:
    model, schedule = build_model({**FAMILIES["vision_transformer"][0], "num_classes": 2}), ScheduleConfig()
    parameters = list(model.parameters())
    groups = [[p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]]
    before = torch.optim.AdamW([{"params": group} for group in groups], fused=True)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    before.step()
    for optimizer in (before, make_optimizer(model, schedule)):
        again = restore_optimizer(model, schedule, optimizer.state_dict())
        assert again.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
    again = restore_optimizer(model, schedule, before.state_dict())
    assert torch.equal(
        again.state[model.stem.positions]["exp_avg"], before.state[model.stem.positions]["exp_avg"]
    )


def test_the_rate_rises_and_falls() -> None:
    schedule = ScheduleConfig(epochs=5, learning_rate=2.0, warmup_epochs=1)
    rates = [learning_rate(schedule, step, steps_per_epoch=4) for step in range(20)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[12] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.03


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"learning_rate_schedule": "linear", "min_learning_rate": 0.5}, [2.0, 1.625, 1.25, 0.875]),
        ({"learning_rate_schedule": "cosine", "min_learning_rate": 1.0}, [2.0, 1.8535534, 1.5, 1.1464466]),
        (
            {"learning_rate_schedule": "step", "decay_epochs": [1, 3], "decay_factor": 0.5},
            [2.0, 1.0, 1.0, 0.5],
        ),
        ({"learning_rate_schedule": "constant", "warmup_epochs": 1}, [1.0, 2.0, 2.0, 2.0]),
        ({"learning_rate_schedule": "one_cycle", "warmup_epochs": 2}, [0.08, 1.04, 2.0, 1.000004]),
        ({"optimizer": "schedule_free_sgd"}, [2.0, 2.0, 2.0, 2.0]),
    ],
    ids=lambda value: value.get("learning_rate_schedule") if isinstance(value, dict) else "",
)
def test_how_the_rate_falls(options: dict[str, Any], wanted: list[float]) -> None:
    schedule = ScheduleConfig.parse({"epochs": 4, "learning_rate": 2.0, **options}, "schedule")
    assert [learning_rate(schedule, step, 1) for step in range(4)] == pytest.approx(wanted)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_learn_slower_the_earlier_they_are(family: str) -> None:
    model = build_model({**FAMILIES[family][0], "num_classes": 2})
    layers = model.parameter_layers()
    assert layers.keys() == dict(model.named_parameters()).keys()
    assert sorted(set(layers.values())) == list(range(max(layers.values()) + 1))
    assert all(layer == max(layers.values()) for name, layer in layers.items() if name.startswith("heads."))
    groups = group_parameters(model, ScheduleConfig(layer_decay=0.5))
    scale = {id(p): group["scale"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert scale[id(parameter)] == 0.5 ** (max(layers.values()) - layers[name]), name


def test_layers_of_a_wrapped_module_are_its_blocks() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    model = ClassyModel.from_model(module, ["0", "1"])
    layers = model.parameter_layers()
    assert [layers[f"model.{i}.weight"] for i in range(3)] == [0, 1, 1]


def test_heads_have_rates_of_their_own() -> None:
    heads = [head("a", num_classes=2), head("b", num_classes=2)]
    model = build_model({**SMALL_TRUNK, "heads": heads})
    schedule = ScheduleConfig(learning_rate=0.1, head_learning_rate={"b": 1.0}, layer_decay=0.5)
    optimizer = make_optimizer(model, schedule)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {name: rates[id(p)] for name, p in model.named_parameters()}
    assert named["heads.trunk_output.a.fc.weight"] == 0.1
    assert named["heads.trunk_output.b.fc.weight"] == pytest.approx(1.0)
    assert max(rate for name, rate in named.items() if name.startswith("blocks.")) == 0.05
    with pytest.raises(ConfigError, match="schedule.head_learning_rate: unknown head 'c'"):
        make_optimizer(model, ScheduleConfig(head_learning_rate={"c": 1.0}))


def test_an_optimizer_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model({**SMALL_TRUNK, "heads": [head("x", num_classes=2)]})
    monkeypatch.setattr("classy_vision.train.optimizer.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'classy-vision-models\[optimizers\]'"):
        make_optimizer(model, ScheduleConfig(optimizer="lamb"))


def test_sgd_without_momentum() -> None:
    schedule = ScheduleConfig(optimizer="sgd", momentum=0.0)
    optimizer = make_optimizer(build_model({**SMALL_TRUNK, "heads": [head("a", num_classes=2)]}), schedule)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.0}


def test_muon_takes_the_matrices_without_weight_decay_too() -> None:
    pytest.importorskip("pytorch_optimizer")
    model = build_model({**FAMILIES["vision_transformer"][0], "heads": []})
    for decay in (0.0, 0.1):
        groups = make_optimizer(model, ScheduleConfig(optimizer="muon", weight_decay=decay)).param_groups
        assert any(group["use_muon"] for group in groups)
        assert all(p.dim() > 1 for group in groups if group["use_muon"] for p in group["params"])
