"""Any module as a trunk."""

from __future__ import annotations

import copy
import pickle
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.cost import count
from classy_vision.heads import FullyConnectedHead, IdentityHead
from classy_vision.models import ClassyModel, build_model
from classy_vision.trunk import map_layout
from tests.models.small import batch, loss, wrong_answers


class Plain(nn.Module):
    """A network of someone else's, whose forward is no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
        self.layer2 = nn.Sequential(nn.Conv2d(16, 12, 3), nn.ReLU())
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = torch.cat([x[:, :, 1:-1, 1:-1], self.layer1(x)], 1)
        return self.fc(self.layer2(x).mean((2, 3)))


def trunk() -> ClassyModel:
    torch.manual_seed(0)
    return ClassyModel.from_model(Plain(), ["layer1.0", "layer1", "layer2"], input_shape=(3, 32, 32))


def headed() -> ClassyModel:
    model = trunk()
    model.set_heads({"layer1-0": [FullyConnectedHead("early", 2)], "layer2": [FullyConnectedHead("late", 4)]})
    return model


def test_blocks_and_output() -> None:
    model = trunk()
    assert model.block_names == ["layer1-0", "layer1.0", "layer1", "layer2", "trunk_output"]
    assert [key for key in model.state_dict() if not key.startswith("model.")] == []
    torch.testing.assert_close(model(batch()), model.model(batch()))
    features = model.features(batch(), model.block_names)
    assert {n: i.shape for n, i in model.feature_info(model.block_names).items()} == {
        n: tuple(f.shape[1:]) for n, f in features.items()
    }
    assert list(ClassyModel.from_model(Plain(), {"c": "layer2.0"}).block_names) == [
        "c",
        "layer2.0",
        "trunk_output",
    ]


def test_stops_behind_the_deepest_block() -> None:
    model = trunk().train()
    runs: Counter[str] = Counter()
    for name in ("conv1", "layer1", "layer2", "fc"):
        module = model.model.get_submodule(name)
        module.register_forward_pre_hook(lambda *_, name=name: runs.update([name]))
    model.features(batch(), ["layer1.0"])
    assert runs == {"conv1": 1, "layer1": 1}
    model.set_heads({"layer1": [FullyConnectedHead("a", 2)]})
    runs.clear()
    loss({"a": model(batch())}).backward()
    assert runs == {"conv1": 1, "layer1": 1}
    trained = {n.split(".")[1] for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {"conv1", "layer1"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_what_is_done_with_modules() -> None:
    model = headed()
    loss(model(batch())).backward()
    wanted = model.eval()(batch())
    program = torch.export.export(model, (batch(3),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    runs = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        program.module(),
    ]
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(batch()), wanted)
    for twin in runs:
        torch.testing.assert_close(twin(batch()), wanted)


def test_threads_read_their_own_features() -> None:
    assert wrong_answers(headed().eval()) == []


def test_a_model_of_ours_inside() -> None:
    inner = build_model("regnet_x_200mf").eval()
    model = ClassyModel.from_model(inner, ["blocks.block2-0"]).eval()
    wanted = inner.features(batch(), ["block2-0"])["block2-0"]
    torch.testing.assert_close(model.features(batch(), ["blocks-block2-0"])["blocks-block2-0"], wanted)
    assert len(inner.state_dict()) == len(model.state_dict())


class Encoder(nn.Module):
    """Attention, a parameter beside the modules, and what nothing before the end uses."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, 8)
        self.l0 = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.late = nn.Parameter(torch.zeros(8))
        self.l1 = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.l1(self.l0(self.patch(x).flatten(2).transpose(1, 2)) + self.late).mean(1)


def test_what_takes_part_in_training_is_what_the_head_depends_on() -> None:
    model = ClassyModel.from_model(Encoder(), ["l0"], (3, 32, 32))
    model.set_heads({"l0": [FullyConnectedHead("a", 2)]})
    loss({"a": model(batch())}).backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in model.named_parameters() if p.grad is not None}
    assert {n.split(".")[1] for n in trained if n.startswith("model.")} == {"patch", "l0"}


class Inplace(nn.Sequential):
    def __init__(self) -> None:
        relu = nn.ReLU(inplace=True)
        super().__init__(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), relu, nn.Conv2d(4, 4, 3), relu)


def test_features_are_those_of_their_own_block() -> None:
    net = Inplace().eval()
    model = ClassyModel.from_model(net, {"norm": "1", "conv": "3"}, (3, 32, 32))
    alone = model.features(batch(), ["norm"])["norm"]
    together = model.features(batch(), ["norm", "conv"])["norm"]
    assert alone.min() < 0
    assert torch.equal(alone, together)
    reused = ClassyModel.from_model(net, {"relu": "2"}, (3, 32, 32))
    with pytest.raises(ConfigError, match="'relu' runs more than once"):
        reused.features(batch(), ["relu", "trunk_output"])


def test_two_trunks_of_one_module() -> None:
    net = Plain().eval()
    first = ClassyModel.from_model(net, {"x": "layer1"}, (3, 32, 32))
    second = ClassyModel.from_model(net, {"x": "layer2"}, (3, 32, 32))
    assert first.features(batch(), ["x"])["x"].shape[1] == 8
    assert second.features(batch(), ["x"])["x"].shape[1] == 12
    outer = ClassyModel.from_model(nn.Sequential(first), {"x": "0.model.layer1"}, (3, 32, 32))
    assert outer.features(batch(), ["x"])["x"].shape[1] == 8


def test_without_heads_the_output_is_the_modules() -> None:
    class Own(Plain):
        def extract_features(self, x: Tensor) -> Tensor:
            return self.conv1(x)

    model = ClassyModel.from_model(Own(), ["layer1"], (3, 32, 32)).eval()
    assert model(batch()).shape == (2, 5)
    assert model.extract_features(batch()).shape == (2, 8, 15, 15)


def test_a_dotted_name_takes_a_head() -> None:
    model = trunk()
    model.set_heads({"layer1.0": [FullyConnectedHead("a", 2)]})
    assert list(model.get_heads()) == ["layer1-0"]


def test_blocks_in_any_order() -> None:
    model = ClassyModel.from_model(Plain(), ["layer2", "layer1"], (3, 32, 32)).eval()
    wanted = ClassyModel.from_model(model.model, ["layer1", "layer2"], (3, 32, 32)).eval()
    for blocks in (["layer1"], ["layer2", "layer1"], ["layer2"]):
        torch.testing.assert_close(model.features(batch(), blocks), wanted.features(batch(), blocks))


def test_a_block_that_does_not_run() -> None:
    class Idle(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Linear(2, 2)

    model = ClassyModel.from_model(Idle(), ["idle", "layer1"], (3, 32, 32))
    assert model.features(batch(), ["layer1"]).keys() == {"layer1"}
    with pytest.raises(ConfigError, match="block 'idle' did not run"):
        model.features(batch(), ["idle"])


def test_a_trunk_that_cannot_run_without_data_takes_heads_that_know_their_width() -> None:
    class Checks(Plain):
        def forward(self, x: Tensor) -> Tensor:
            assert x.sum().item() != 0
            return super().forward(x)

    model = ClassyModel.from_model(Checks(), ["layer2"], (3, 32, 32))
    with pytest.raises(ConfigError, match="cannot be run without data"):
        model.set_heads({"layer2": [FullyConnectedHead("a", 2)]})
    model.set_heads({"layer2": [FullyConnectedHead("a", 2, in_plane=12)]})
    assert model(batch()).shape == (2, 2)


def test_bad_blocks() -> None:
    with pytest.raises(ConfigError, match=r"unknown submodule 'layr1'; did you mean 'layer1'"):
        ClassyModel.from_model(Plain(), ["layr1"])
    with pytest.raises(ConfigError, match="a list of blocks"):
        ClassyModel.from_model(Plain(), "layer1")
    with pytest.raises(ConfigError, match="block 'keys' cannot be used"):
        ClassyModel.from_model(Plain(), {"keys": "layer1"})
    with pytest.raises(ConfigError, match="a shape goes to input_shape="):
        ClassyModel.from_model(Plain(), (3, 224, 224))
    with pytest.raises(ConfigError, match="belongs to the end of the trunk"):
        ClassyModel.from_model(Plain(), {"trunk_output": "layer1"})
    with pytest.raises(TypeError, match=r"takes a torch.nn.Module, not int"):
        ClassyModel.from_model(3)
    with pytest.raises(ValueError, match="input_shape"):
        ClassyModel.from_model(Plain(), ["layer1"], input_shape=(1, 32, 32)).set_heads(
            {"layer1": [FullyConnectedHead("a")]}
        )


class ChannelsLast(nn.Module):
    """As Swin: maps (n, h, w, c) behind a convolution, layers over the last axis."""

    def __init__(self, width: int = 12, fixed: bool = False) -> None:
        super().__init__()
        self.fixed = fixed
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.layer1 = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.layer2 = nn.Linear(width, 2 * width)
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        assert not self.fixed or x.shape[-1] == 32
        x = self.layer2(self.layer1(self.patch(x).permute(0, 2, 3, 1)))
        return self.fc(x.mean((1, 2)))


@pytest.mark.parametrize(
    ("net", "layout"),
    [
        (ChannelsLast(), None),
        (ChannelsLast(fixed=True), None),
        (ChannelsLast(8), None),  # 8 channels, 8 rows: what grows with the input is seen
        (ChannelsLast(8, fixed=True), {"layer1": "nhwc", "patch": "nchw"}),
    ],
    ids=["any size", "one size", "cube", "cube of one size"],
)
def test_maps_with_channels_last_are_seen_with_channels_first(net: ChannelsLast, layout: object) -> None:
    width = net.patch.out_channels
    model = ClassyModel.from_model(net.eval(), ["patch", "layer1", "layer2"], (3, 32, 32), layout=layout)  # type: ignore[arg-type]
    info = model.feature_info(["patch", "layer1", "layer2"])
    assert [i.channels for i in info.values()] == [width, width, 2 * width]
    assert [i.stride for i in info.values()] == [4, 4, 4]
    features = model.features(batch(), ["patch", "layer1", "layer2"])
    assert [tuple(f.shape[1:]) for f in features.values()] == [i.shape for i in info.values()]
    own = net.patch(batch()).permute(0, 2, 3, 1)
    torch.testing.assert_close(features["layer1"], net.layer1(own).permute(0, 3, 1, 2))
    model.set_heads({"layer2": [FullyConnectedHead("a", 2)], "layer1": [IdentityHead("map")]})
    outputs = model.eval()(batch())
    torch.testing.assert_close(outputs["map"], features["layer1"])
    assert model.get_heads()["layer2"][0].in_plane == 2 * width
    assert {step.name: step.shape[0] for step in count(model).steps if step.reads is None}["layer1"] == width
    torch.testing.assert_close(copy.deepcopy(model)(batch()), outputs)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(batch()), outputs)


def test_a_layout_that_cannot_be_told_is_asked_for() -> None:
    net = ChannelsLast(8, fixed=True)
    model = ClassyModel.from_model(net, ["layer1", "layer2"], (3, 32, 32))
    for ask in (
        lambda: model.feature_info(["layer1"]),
        lambda: model.set_heads({"layer1": [IdentityHead("a")]}),
    ):
        with pytest.raises(ConfigError, match="block 'layer1': it cannot be told .* layout='nhwc'"):
            ask()
    assert model.feature_info(["layer2"])["layer2"].channels == 16
    net.output_fmt = "NHWC"  # as timm's say
    assert ClassyModel.from_model(net, ["layer1"], (3, 32, 32)).feature_info(["layer1"])["layer1"].channels == 8
    with pytest.raises(ConfigError, match="unknown layout 'nwhc'; did you mean 'nhwc'"):
        ClassyModel.from_model(net, ["layer1"], layout="nwhc")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="layout: unknown block 'layr1'; did you mean 'layer1'"):
        ClassyModel.from_model(net, ["layer1"], layout={"layr1": "nhwc"})


def test_clips_and_ends_with_channels_last() -> None:
    class Video(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv3d(3, 6, (2, 4, 4), (2, 4, 4))
            self.norm = nn.LayerNorm(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.patch(x).movedim(1, -1))

    model = ClassyModel.from_model(Video(), ["norm"], (3, 4, 32, 32))
    assert model.feature_info(["norm"])["norm"].shape == (6, 2, 8, 8)
    assert model(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 6, 2, 8, 8)
    assert model.features(torch.zeros(1, 3, 4, 32, 32), ["trunk_output"])["trunk_output"].shape == (
        1,
        6,
        2,
        8,
        8,
    )
    model.set_heads({"trunk_output": [FullyConnectedHead("a", 2)]})
    assert model(torch.zeros(1, 3, 4, 32, 32)).shape == (1, 2)


def test_an_output_that_is_no_map_stays_as_it_is() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return x, 3

    x = batch()
    output, number = ClassyModel.from_model(Pair(), layout="nhwc")(x)
    assert output is x
    assert number == 3


def test_a_first_read_in_several_threads_waits_for_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, waits = threading.Event(), threading.Event()
    find_layouts = map_layout.find_layouts

    def find_slowly(*args: Any) -> Any:
        begun.set()
        waits.wait(0.2)
        return find_layouts(*args)

    model = ClassyModel.from_model(ChannelsLast().eval(), input_shape=(3, 32, 32))
    monkeypatch.setattr(map_layout, "find_layouts", find_slowly)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(model.features, batch(), ["layer1"])
        assert begun.wait(10)
        second = model.features(batch(), ["layer1"])
        waits.set()
        assert first.result()["layer1"].shape == second["layer1"].shape == (2, 12, 8, 8)


def test_a_first_read_that_ends_early_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any) -> Any:
        raise KeyboardInterrupt

    model = ClassyModel.from_model(ChannelsLast().eval(), input_shape=(3, 32, 32))
    with monkeypatch.context() as patch:
        patch.setattr(map_layout, "find_layouts", interrupt)
        with pytest.raises(KeyboardInterrupt):
            model.features(batch(), ["layer1"])
    for trunk in (copy.deepcopy(model), model):
        assert trunk.features(batch(), ["layer1"])["layer1"].shape == (2, 12, 8, 8)
