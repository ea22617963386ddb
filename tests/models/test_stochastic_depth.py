"""How often each family drops its branches: rates that rise to the one that was asked for."""

from __future__ import annotations

import pytest

from classy_vision.layers.stochastic_depth import StochasticDepth
from classy_vision.models import build_model
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
