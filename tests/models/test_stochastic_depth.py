"""How often each family drops its branches: rates that rise to the one that was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from classy_vision.layers.stochastic_depth import StochasticDepth
from classy_vision.models import build_model
from classy_vision.models.anynet.model import ResBlock
from tests.models.small import FAMILIES

RATE = 0.3


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "mlp"])
def test_the_last_branch_has_the_rate(family: str) -> None:
    model = build_model({**FAMILIES[family][0], "stochastic_depth": RATE})
    rates = [part.rate for part in model.modules() if isinstance(part, StochasticDepth)]
    assert rates == sorted(rates)
    if FAMILIES[family][0]["name"] == "efficientnet":  # block i of n has i / n of it, as everywhere
        assert rates[-1] == pytest.approx(RATE * (len(rates) - 1) / len(rates))
    else:
        assert rates[-1] == RATE


def test_a_single_layer_has_the_rate() -> None:
    model = build_model({**FAMILIES["vision_transformer"][0], "num_layers": 1, "stochastic_depth": RATE})
    assert [part.rate for part in model.modules() if isinstance(part, StochasticDepth)] == [RATE]


def test_a_block_without_a_shortcut_is_not_dropped() -> None:
    config = {**FAMILIES["anynet"][0], "block_type": "res_bottleneck_linear_block", "stochastic_depth": 0.9}
    model = build_model({**config, "heads": []}).train()
    without = [part for part in model.modules() if isinstance(part, ResBlock) and part.shortcut is None]
    assert without
    for block in without:
        block.drop.rate = 0.999
        width = next(part.in_channels for part in block.modules() if isinstance(part, nn.Conv2d))
        assert block(torch.randn(16, width, 8, 8)).flatten(1).abs().amax(1).min() > 0
