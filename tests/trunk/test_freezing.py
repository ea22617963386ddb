"""What takes part in training, and what is kept out of it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel, build_model
from classy_vision.trunk.trunk import END
from tests.models.small import FAMILIES, batch, build, loss


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def norms(model: nn.Module) -> dict[str, nn.Module]:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def step(model: ClassyModel) -> None:
    loss(model(batch())).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_blocks_do_not_move(family: str) -> None:
    early = FAMILIES[family][1]
    model = build(family)
    keys, whole = list(model.state_dict()), trained(model)
    assert model.freeze(early) is model
    assert model.frozen_until == model._step(early)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    features = model.features(batch(), [early])[early]
    assert not features.requires_grad
    step(model)
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    steps = model._steps()[1 : model._steps().index(model._step(early)) + 1]
    frozen = ("stem.", *(f"blocks.{name}." for name in steps))
    assert not [name for name in moved if name.startswith(frozen)]
    assert any(name.startswith("heads.") for name in moved)
    assert trained(model) == {name for name in whole if not name.startswith(frozen)}
    assert list(model.state_dict()) == keys
    model.unfreeze()
    assert trained(model) == whole
    assert model.frozen_until is None
    assert all(module.training for module in model.modules())


def test_only_norms_of_frozen_blocks_stay_in_evaluation() -> None:
    model = build("regnet").freeze("block1").train()
    modes = {name: norm.training for name, norm in norms(model).items()}
    assert {name for name, training in modes.items() if not training} == {
        name for name in modes if name.startswith(("stem.", "blocks.block1-"))
    }
    assert not any(module.training for module in model.eval().modules())
    assert model.freeze(None).train().stem.training


def test_copies_stay_frozen() -> None:
    model = build("regnet").freeze("block1")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.frozen_until == "block1-0"
        assert trained(twin.train()) == trained(model)
        assert not twin.stem.training
        assert twin.unfreeze().stem.training


def test_freezing_and_heads() -> None:
    model = build("regnet").freeze("block1")
    model.set_heads({END: [FullyConnectedHead("a", 2)]})
    assert not any(name.startswith(("stem.", "blocks.block1-")) for name in trained(model))
    assert any(name.startswith("blocks.block3-") for name in trained(model))
    model.requires_grad_(True)
    assert not any(name.startswith("stem.") for name in trained(model))
    model.freeze()
    assert {name.split(".")[0] for name in trained(model)} == {"heads"}
    model.set_heads({"block1": [FullyConnectedHead("a", 2)]})
    model.unfreeze()
    assert {".".join(name.split(".")[:2]) for name in trained(model)} == {
        "stem.conv", "stem.norm", "blocks.block1-0", "heads.block1",
    } or all(name.startswith(("stem.", "blocks.block1-", "heads.")) for name in trained(model))  # fmt: skip


def test_what_the_user_froze_stays_frozen() -> None:
    model = build("regnet")
    model.stem.requires_grad_(False)
    model.freeze("block1").unfreeze()
    assert not any(name.startswith("stem.") for name in trained(model))


def test_an_unknown_block_freezes_nothing() -> None:
    model = build("regnet")
    before = trained(model)
    with pytest.raises(ConfigError, match="unknown block 'blok1'; did you mean 'block1"):
        model.freeze("blok1")
    assert trained(model) == before


class Net(nn.Module):
    """Two branches behind a stem, and a norm without parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.Dropout(0.5))
        self.side = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.main = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.side(x) + self.main(x)
        return self.fc(x.mean((2, 3)))


def test_any_module_can_be_frozen() -> None:
    model = ClassyModel.from_model(Net(), ["stem", "main"], (3, 16, 16))
    model.set_heads({END: [FullyConnectedHead("a", 2)]})
    model.freeze("main").train()
    assert {name.split(".")[1] for name in trained(model) if name.startswith("model.")} == {"side", "fc"}
    modes = {name.split(".", 1)[1]: norm.training for name, norm in norms(model).items()}
    assert modes == {"stem.1": False, "side.1": True, "main.1": False}
    assert not model.model.stem[2].training
    loss({"a": model(batch())}).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.freeze(END).train()
    assert {name.split(".")[0] for name in trained(model)} == {"heads"}
    model.unfreeze()
    assert all(module.training for module in model.modules())


def test_train_all_trains_what_no_head_reads() -> None:
    model = build("regnet")
    read = trained(model)
    model.requires_grad_(True)
    assert trained(model) == read
    assert model.train_all() is model
    assert trained(model) == {name for name, _ in model.named_parameters()}
    model.features(batch(), [END])[END].mean().backward()
    assert model.tail is not None
    assert all(p.grad is not None for p in model.blocks.parameters())
    model.set_heads(model.get_heads())
    assert trained(model) == {name for name, _ in model.named_parameters()}
    model.freeze("block1")
    assert not any(name.startswith("stem.") for name in trained(model))
    model.unfreeze().requires_grad_(True)
    assert trained(model) == read


def test_the_published_way() -> None:
    """The whole trunk at rest: the heads learn, and the numbers of the trunk stay."""
    model = build_model({**FAMILIES["regnet"][0], "num_classes": 3}).freeze().train()
    before = model.features(batch(), [END])[END]
    step_one = model(batch()).square().mean()
    step_one.backward()
    assert torch.equal(model.features(batch(), [END])[END], before)
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("heads."))
