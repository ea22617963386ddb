"""Models in the original's style: a forward of their own, and heads on any submodule."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.cost import count
from classy_vision.heads import ClassyHead, FullyConnectedHead, IdentityHead
from classy_vision.models import ClassyModel, build_model, register_model
from tests.models.small import batch, loss, wrong_answers


class Own(ClassyModel):
    """Modules are registered in another order than they run in, and one never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[str] = []
        self.late = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True))
        self.idle = nn.Linear(2, 2)
        self.early = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.classifier = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(x)
        self.runs.append("early")
        x = self.late(x)
        self.runs.append("late")
        return self.classifier(x.mean((2, 3)))

    @classmethod
    def from_config(cls, config: Any) -> Own:
        return cls()


def headed() -> Own:
    model = Own()
    model.set_heads({"late": [FullyConnectedHead("b", 2)], "early": [FullyConnectedHead("a", 3)]})
    return model


def test_heads_on_submodules_by_name() -> None:
    model = headed().eval()
    outputs = model(batch())
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {"b": (2, 2), "a": (2, 3)}
    assert list(outputs) == ["b", "a"]  # as they were given, in the original too
    features = model.early(batch())
    torch.testing.assert_close(outputs["a"], model.heads["early"]["a"](features))
    torch.testing.assert_close(model.forward(batch()), outputs)
    model.clear_heads()
    assert model(batch()).shape == model.extract_features(batch()).shape == (2, 5)


def test_what_follows_the_last_block_that_is_read_does_not_run() -> None:
    model = Own()
    model.set_heads({"early": [FullyConnectedHead("a", 2)]})
    model.runs.clear()
    loss({"a": model(batch())}).backward()
    assert model.runs == []
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None} == {"early", "heads"}
    assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"early", "heads"}
    assert model.features(batch(), ["late"])["late"].shape == (2, 6, 28, 28)
    assert model.runs == ["early"]
    assert model.extract_features(batch()).shape == (2, 5)


def test_names_of_blocks() -> None:
    model = Own()
    assert model.block_names == [
        "late", "late-0", "late-1", "idle", "early", "early-0", "early-1", "classifier", "trunk_output",
    ]  # fmt: skip
    for path in ("late.0", "late-0"):
        model.set_heads({path: [IdentityHead("a")]})
        assert list(model.get_heads()) == ["late-0"]
    with pytest.raises(ConfigError, match=r"unknown block 'erly'; did you mean 'early'"):
        model.set_heads({"erly": [IdentityHead("a")]})
    with pytest.raises(ConfigError, match=r"'0' is not unique: name one by its path: late.0, early.0"):
        model.set_heads({"0": [IdentityHead("a")]})
    assert list(model.get_heads()) == ["late-0"]
    model.set_heads({"idle": [IdentityHead("a")]})
    with pytest.raises(ConfigError, match="block 'idle' did not run"):
        model(batch())


def test_from_a_config_and_in_the_originals_state() -> None:
    register_model("own_style")(Own)
    head = {"name": "fully_connected", "unique_id": "a", "num_classes": 3, "in_plane": 4, "fork_block": "early"}
    model = build_model({"name": "own_style", "heads": [head]}).eval()
    state = model.get_classy_state()["model"]
    assert list(state["heads"]) == ["early"]
    assert "early.0.weight" in state["trunk"]
    raw = {
        **{f"_heads.early.a.{key}": value for key, value in state["heads"]["early"]["a"].items()},
        **{key.replace("early.", "early._module."): value for key, value in state["trunk"].items()},
    }
    twin = build_model({"name": "own_style", "heads": [head]}).eval()
    twin.load_state_dict(raw)
    torch.testing.assert_close(twin(batch()), model(batch()))
    identity = Own().eval()
    identity.set_heads({"early": [IdentityHead("a")]})
    identity.load_state_dict({key: value for key, value in raw.items() if not key.startswith("_heads.")})
    torch.testing.assert_close(identity(batch()), model.early(batch()))


def test_what_is_done_with_modules() -> None:
    model = headed().eval()
    wanted = model(batch())
    program = torch.export.export(model, (batch(3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), program.module()):
        torch.testing.assert_close(twin(batch()), wanted)
    assert [step.name for step in count(model).steps] == ["early", "a", "late", "b", "trunk_output"]
    assert wrong_answers(model) == []


def test_compiles_whole() -> None:
    class Plain(ClassyModel):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    model = Plain().eval()
    model.set_heads({"first": [FullyConnectedHead("a", 2)], "second": [FullyConnectedHead("b", 2)]})
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch()), model(batch()))


class Widths(ClassyModel):
    """Names of ours for its own modules and methods, and an input that is no image."""

    def __init__(self) -> None:
        self.note = "set before the base class is"
        super().__init__()
        self.features = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        self.add_module("walk", nn.Linear(3, 3))
        self.stem = nn.Linear(3, 2)
        self.blocks = nn.ModuleList([nn.Linear(2, 2)])

    def forward(self, x: Tensor, *, double: bool = False) -> Tensor:
        x = self.blocks[0](self.stem(self.walk(self.features(x))))
        return 2 * x if double else x

    def feature_info(self) -> str:
        return "mine"


def test_an_authors_names_are_its_own() -> None:
    model = Widths().eval()
    x = torch.randn(5, 2)
    wanted = model.features(x)
    assert isinstance(model.features, nn.Sequential)
    assert isinstance(model.walk, nn.Linear)
    assert model.feature_info() == "mine"
    plain = model(x)
    model.set_heads({"features": [IdentityHead("a")], "trunk_output": [IdentityHead("b")]})
    torch.testing.assert_close(model(x), {"a": wanted, "b": plain})
    torch.testing.assert_close(model(x, double=True)["b"], 2 * plain)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.features is twin._modules["features"] is not model.features
        torch.testing.assert_close(twin(x), model(x))
    model.features = nn.Linear(2, 3)
    assert model.features is model._modules["features"]
    del model.features
    assert callable(model.features)
    assert "features" not in model._modules
    with pytest.raises(TypeError, match="Widths.heads holds what set_heads attaches"):
        model.heads = nn.ModuleList()
    with pytest.raises(TypeError, match="Widths.input_shape is taken by the base class"):
        model.input_shape = nn.Linear(1, 1)


def test_a_head_that_builds_nothing_needs_no_width() -> None:
    class Layer(ClassyHead):
        def __init__(self) -> None:
            super().__init__("a")
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    model = Widths()
    head = Layer()
    model.set_heads({"trunk_output": [head]})
    x = torch.randn(5, 2)
    torch.testing.assert_close(model(x), head(model.extract_features(x)))


def test_a_model_of_ours_inside() -> None:
    class Outer(ClassyModel):
        def __init__(self) -> None:
            super().__init__()
            self.inner = build_model("regnet_x_200mf", num_classes=7)
            self.other = ClassyModel.from_model(nn.Sequential(nn.Conv2d(3, 4, 3)))
            self.last = nn.Linear(7, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.inner(x)) + self.other(x).mean((2, 3))

    model = Outer().eval()
    plain = model(batch())
    assert plain.shape == (2, 4)
    model.set_heads({"inner": [IdentityHead("classes")], "block3-0": [FullyConnectedHead("early", 3)]})
    outputs = model(batch())
    torch.testing.assert_close(outputs["classes"], model.inner(batch()))
    torch.testing.assert_close(model.extract_features(batch()), plain)
    twin = Outer().eval()
    twin.set_heads({"inner": [IdentityHead("classes")], "block3-0": [FullyConnectedHead("early", 3)]})
    twin.set_classy_state(model.get_classy_state(deep_copy=True))
    torch.testing.assert_close(twin(batch()), outputs)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_scripts_without_heads() -> None:
    class AddsOne(ClassyModel):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return x + 1

    assert torch.equal(torch.jit.script(AddsOne())(torch.ones(2)), torch.full((2,), 2.0))


def test_a_forward_around_another() -> None:
    class Doubled(Own):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = Doubled().eval()
    plain = model(batch())
    model.set_heads({"trunk_output": [IdentityHead("a")]})
    torch.testing.assert_close(model(batch()), plain)


def test_an_own_trunk_output_is_what_a_head_there_reads() -> None:
    class Named(Own):
        def __init__(self) -> None:
            super().__init__()
            self.trunk_output = self.late

    model = Named().eval()
    model.set_heads({"trunk_output": [IdentityHead("a")]})
    assert model(batch()).shape == (2, 6, 28, 28)
    assert model.extract_features(batch()).shape == (2, 5)


def test_any_submodule_of_another_module() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU()))
    model = ClassyModel.from_model(net, input_shape=(3, 32, 32)).eval()
    assert model.block_names == ["0", "1", "1-0", "1-1", "trunk_output"]
    model.set_heads({"1.0": [FullyConnectedHead("a", 2)]})
    assert model(batch()).shape == (2, 2)
    assert next(iter(model.state_dict())) == "heads.1-0.a.fc.weight"
