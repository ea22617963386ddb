"""What the pictures of these tests show."""

from __future__ import annotations

from functools import cache
from typing import Any

from classy_vision.cost import Costs, OnMeta, StepCost, count
from classy_vision.models import build_model

SCRIPT = "<script>broken = true</script>"


def head(name: str, block: str) -> dict[str, Any]:
    return {"name": "fully_connected", "unique_id": name, "num_classes": 9, "fork_block": block}


CONFIGS: dict[str, dict[str, Any]] = {
    "three heads": {
        "name": "resnet50",
        "heads": [head("late", "trunk_output"), head("early", "block1-1"), head("middle", "block2")],
    },
    "stops early": {
        "name": "resnet18",
        "heads": [head(SCRIPT, "block1"), head("a \"b\" & 'c'", "block1"), head("third", "block0-1")],
    },
    "deep": {"name": "densenet121", "num_classes": 1000},
    "tokens": {"name": "vit_b_16", "num_classes": 1000},
    "video": {"name": "slow_r50", "num_classes": 400},
    "vectors": {"name": "mlp", "input_dim": 784, "output_dim": 10, "hidden_dims": [512, 256]},
}

_LONG = "features.2.residual_group.blocks.17.attention"
LONG = Costs(
    (3, 16, 896, 896),
    (
        StepCost(_LONG, None, ("another name of it",), (1024, 16, 112, 112), 8, 10, 10**12),
        StepCost(_LONG.replace("7", "8"), None, (), (2048, 16, 112, 112), 8, 10, 10**12),
        StepCost("a head with quite a long name, longer than a block's", _LONG, (), (9,), None, 1, 1),
    ),
)


@cache
def costs_of(key: str) -> Costs:
    with OnMeta():
        model = build_model(CONFIGS[key])
    return count(model.eval())
