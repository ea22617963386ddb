"""What families say of their steps, held against a look at them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.cost import OnMeta
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import MODELS, ClassyModel, build_model
from classy_vision.trunk.features import trace
from classy_vision.trunk.sequence import told_channels
from classy_vision.trunk.trunk import END
from tests.models.small import FAMILIES

PRESETS = [entry.name for entry in MODELS if entry.is_preset]
SWITCHES: list[dict[str, Any]] = [
    {"name": "vision_transformer", "final_norm": "after_pool", "classifier": "gap"},
    {"name": "vision_transformer", "feature_format": "map"},
    {"name": "densenet", "final_bn_relu": False},
    {"name": "resnext", "final_bn_relu": False},
    {"name": "resnext", "stem": "deep", "stem_width": 4, "shortcut": "avg", "anti_alias": "blur"},
    {
        "name": "resnext",
        "stem": "tiered",
        "stem_width": 8,
        "stem_pool": "conv",
        "use_se": False,
        "use_eca": True,
    },
    {"name": "resnext3d", "residual_transformation_type": "postactivated_bottleneck_transformation"},
    {"name": "anynet", "final_activation": True},
]


def check(model: ClassyModel) -> None:
    """Channels of every step, and what rests with a head on it."""
    channels = told_channels(model)
    seen = trace(model, model.input_shape, END, gradients=True)
    assert channels == {step: seen.info(step).channels for step in seen.features}
    for step in (*list(channels)[:: max(1, len(channels) // 4)], END):
        model.set_heads({step: [FullyConnectedHead("x", 2, trunk_norm=False)]})
        assert model._training_state.held == seen.unread({step}), step
    model.clear_heads()


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str) -> None:
    check(build_model({**FAMILIES[family][0], "heads": []}))


@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_switches(options: dict[str, Any]) -> None:
    check(build_model({**FAMILIES[options["name"]][0], "heads": [], **options}))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    with OnMeta():
        check(build_model(name, heads=[]))


def test_other_steps_are_looked_at() -> None:
    """What a user puts in the place of a step, or does in the walk, is seen."""
    model = build_model({**FAMILIES["regnet"][0], "heads": []})
    model.tail = nn.Conv2d(model.feature_info([END])[END].channels, 5, 1)
    model.set_heads({END: [FullyConnectedHead("x", 2)]})
    assert model.get_heads()[END][0].in_plane == 5

    class Halved(type(model)):  # type: ignore[misc]
        def walk(self, x: Tensor, until: str = END) -> Any:
            for name, feature in super().walk(x, until):
                yield name, feature[:, ::2]

    halved = Halved(model.config)
    halved.set_heads({"stem": [FullyConnectedHead("x", 2)]})
    assert halved.get_heads()["stem"][0].in_plane == model.feature_info(["stem"])["stem"].channels // 2
    assert halved(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
