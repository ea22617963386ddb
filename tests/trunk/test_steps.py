"""How a trunk runs: its steps with their heads, what stands above a layer, and what is not done twice."""

from __future__ import annotations

import copy
import sys
from types import FrameType

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.heads import FullyConnectedHead, IdentityHead
from classy_vision.models import ClassyModel, build_model
from classy_vision.trunk import names, sequence
from classy_vision.trunk.sequence import told_channels
from classy_vision.trunk.trunk import END
from tests.models.small import FAMILIES, batch, build

MOST_FRAMES = 5  # forward, walk, block, branch, and the convolution with its norm


def frames_above(model: nn.Module, x: Tensor) -> int:
    """The most frames between a call of ``model`` and a convolution in it, without torch's own two per call."""
    most = 0

    def count(module: nn.Module, inputs: object) -> None:
        nonlocal most
        frame: FrameType | None = sys._getframe(1)
        found: list[str] = []
        while frame is not None and frame.f_code is not here:
            found.append(frame.f_code.co_name)
            frame = frame.f_back
        most = max(most, sum(name not in ("_wrapped_call_impl", "_call_impl", "inner") for name in found))

    here = sys._getframe().f_code
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(count)
    with torch.no_grad():
        model(x)
    return most


@pytest.mark.parametrize("heads", [{"heads": []}, {"num_classes": 3}], ids=["trunk", "head"])
def test_few_frames_stand_above_a_convolution(heads: dict[str, object]) -> None:
    model = build_model("resnet50", init_planes=4, **heads).eval()
    assert frames_above(model, torch.zeros(1, 3, 32, 32)) == MOST_FRAMES


def test_heads_run_when_their_outputs_are_asked_for() -> None:
    model = build("regnet").eval()
    wanted = model(batch())
    features = model.features(batch(), ["block1", "block2"])
    steps = list(model.steps(batch()))
    assert [name for name, *_ in steps] == ["stem", "block1-0", "block2-0"]
    torch.testing.assert_close(steps[1][1], features["block1"])
    found = {name: dict(outputs) for name, _, outputs in steps}
    assert {name: list(outputs) for name, outputs in found.items() if outputs} == {
        "block1-0": ["early"],
        "block2-0": ["late"],
    }
    torch.testing.assert_close({k: v for outputs in found.values() for k, v in outputs.items()}, wanted)
    every = [name for name, *_ in model.steps(batch(), END)]
    assert every == ["stem", *model.blocks, END]
    assert [name for name, *_ in model.steps(batch(), "block1")] == ["stem", "block1-0"]


def test_heads_of_two_names_of_one_step() -> None:
    model = build_model({**FAMILIES["regnet"][0], "heads": []}).eval()
    model.set_heads({"block1": [IdentityHead("a")], "block1-0": [IdentityHead("b")]})
    found = [[head for head, _ in outputs] for _, _, outputs in model.steps(batch())]
    assert found == [[], ["a", "b"]]


def test_steps_of_an_authors_forward() -> None:
    class Own(ClassyModel):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x))

    model = Own().eval()
    assert [name for name, *_ in model.steps(batch())] == [END]
    model.set_heads({"one": [FullyConnectedHead("a", 2)]})
    (name, feature, outputs), *rest = model.steps(batch())
    assert (name, feature.shape, rest) == ("one", (2, 4, 30, 30), [])
    torch.testing.assert_close(dict(outputs), {"a": model(batch())})
    with pytest.raises(ConfigError, match="unknown block 'thre'"):
        model.steps(batch(), "thre")


def test_names_are_found_once_per_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("regnet").eval()
    calls: list[object] = []
    name_steps = names.name_steps
    monkeypatch.setattr(sequence, "name_steps", lambda *args: calls.append(args) or name_steps(*args))
    for _ in range(3):
        model(batch())
        model.features(batch(), ["block1", "block2"])
        model.block_names  # noqa: B018 - it is found
    assert calls == []
    model.blocks["another"] = nn.Identity()
    assert "another" in model.block_names
    assert len(calls) == 1
    model.aliases = {"first": "stem"}
    assert model.features(batch(), ["first"])["first"].shape[1] == 32


def test_what_is_told_holds_for_the_steps_that_were_told() -> None:
    model = build_model({**FAMILIES["regnet"][0], "heads": []})
    told = dict(told_channels(model))
    assert list(told) == ["stem", *model.blocks, END]
    assert told_channels(copy.deepcopy(model)) == told
    last = list(model.blocks)[-1]
    for change in (
        lambda twin: twin.blocks.pop(last),
        lambda twin: twin.blocks.update({"more": nn.Conv2d(told[last], 3, 1)}),
        lambda twin: twin.blocks.update({last: nn.Identity()}),
        lambda twin: setattr(twin, "tail", nn.Conv2d(told[last], 3, 1)),
    ):
        twin = copy.deepcopy(model)
        change(twin)
        assert told_channels(twin) == {}
        twin.set_heads({END: [FullyConnectedHead("a", 2)]})
        assert twin(batch()).shape == (2, 2)
