"""Any module is a head."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.heads import ClassyHead
from classy_vision.models import build_model
from tests.models.small import FAMILIES, batch


class Difference(nn.Module):
    """The difference of the means of two maps, to logits."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.fc(second.mean((2, 3))[:, :16] - first.mean((2, 3))[:, :16])


REGNET, *_ = FAMILIES["anynet"]


def test_a_module_gets_the_features_in_order() -> None:
    torch.manual_seed(0)
    model = build_model(REGNET)
    module = Difference()
    model.set_heads({("block1", "block2-1"): [ClassyHead.from_module(module, "a", 3, in_planes=[16, 24])]})
    features = model.eval().features(batch(), ["block1", "block2-1"])
    torch.testing.assert_close(model(batch()), module(*features.values()))
    assert "heads.block1+block2-1.a.module.fc.weight" in model.state_dict()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(batch()), model(batch()))
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(batch()), model(batch()))


def test_a_module_reads_maps_of_patches() -> None:
    model = build_model(FAMILIES["vision_transformer"][0])
    model.set_heads({"ln": [ClassyHead.from_module(nn.Conv2d(16, 2, 1), reads_maps=True)]})
    assert model(batch()).shape == (2, 2, 4, 4)
    assert next(iter(model.get_heads()["ln"])).unique_id == "Conv2d"


def test_what_is_refused() -> None:
    model = build_model(REGNET)
    with pytest.raises(ConfigError, match=r"expects in_plane=5, but block 'block1' has 16 channels"):
        model.set_heads({"block1": [ClassyHead.from_module(nn.Identity(), "a", in_planes=5)]})
    with pytest.raises(ConfigError, match="reads 1 block, not 2"):
        model.set_heads({("block1", "block2-1"): [ClassyHead.from_module(nn.Identity(), "a")]})
    with pytest.raises(ConfigError, match="from_module takes a torch.nn.Module, not function"):
        ClassyHead.from_module(batch, "a")  # type: ignore[arg-type]  # what is refused
    model.set_heads({"block1": [ClassyHead.from_module(nn.Identity(), "a")]})
    with pytest.raises(ConfigError, match="head 'a': no config can name a ModuleHead: it was made of a module"):
        model.to_config()
