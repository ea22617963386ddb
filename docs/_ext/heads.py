"""What heads cost, on a convolutional trunk and on a vision transformer."""

from __future__ import annotations

from functools import cache
from typing import Any

from classy_vision.cost import Costs, OnMeta, count
from classy_vision.models import build_model

from .markdown import code, table

_LAYERS = ["layer_2", "layer_5", "layer_8", "layer_11"]
_STAGES = ["block0", "block1", "block2", "block3"]
# trunk: {head: blocks and options}
EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "resnet50": {
        "fully_connected": {"fork_block": "block3", "num_classes": 21},
        "attention_pool": {"fork_block": "block3", "num_classes": 21},
        "concat": {"fork_block": _STAGES, "num_classes": 21},
        "linear_dense": {"fork_block": _STAGES, "num_classes": 21},
        "pyramid": {"fork_block": _STAGES, "num_classes": 21},
        "dpt": {"fork_block": _STAGES, "num_classes": 21},
    },
    "vit_b_16": {
        "vision_transformer_head": {"fork_block": "trunk_output", "num_classes": 21},
        "attention_pool": {"fork_block": "ln", "num_classes": 21},
        "concat": {"fork_block": _LAYERS, "num_classes": 21},
        "linear_dense": {"fork_block": _LAYERS, "num_classes": 21},
        "pyramid": {"fork_block": _LAYERS, "num_classes": 21},
        "dpt": {"fork_block": _LAYERS, "num_classes": 21},
    },
}


def costs() -> str:
    """A row per trunk and head: its blocks, output, parameters and arithmetic, and its share of all."""
    rows = []
    for trunk, heads in EXAMPLES.items():
        for name, config in heads.items():
            blocks = config["fork_block"]
            whole = _count(trunk, name)
            (head,) = whole.heads
            rows.append(
                (
                    code(trunk),
                    code(name),
                    ", ".join([blocks] if isinstance(blocks, str) else blocks),
                    "×".join(map(str, head.shape)),
                    f"{head.params / 1e6:.2f}",
                    f"{head.macs / 1e9:.2f}",
                    f"{100 * head.macs / whole.running.macs:.1f} %",
                )
            )
    return table(("trunk", "head", "reads", "output", "M params:", "GMACs:", "of all:"), rows)


@cache
def _count(trunk: str, head: str) -> Costs:
    config = {"name": head, "unique_id": "head", **EXAMPLES[trunk][head]}
    with OnMeta():
        model = build_model({"name": trunk, "heads": [config]})
    return count(model.eval())
