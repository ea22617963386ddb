"""The config of a ResNet or ResNeXt, read from the shapes of its tensors."""

from __future__ import annotations

from typing import Any

from classy_vision.weights.shapes import (
    NORM_OPTIONS,
    FamilyShapes,
    Inferred,
    Shapes,
    count_blocks,
    infer_squeeze,
    read_num_blocks,
)


def infer(t: Shapes) -> Inferred:
    stem, deep = t["stem.conv.weight"], count_blocks(t)
    first, last = "blocks.block0-0", f"blocks.block{len(deep) - 1}-{deep[-1] - 1}"
    basic = f"{first}.residual.c.conv.weight" not in t
    end = "b" if basic else "c"
    inner = t[f"{first}.residual.b.conv.weight"]
    width = t[f"{first}.residual.{end}.conv.weight"][0]
    sizes: dict[str, Any] = {"num_blocks": deep, "init_planes": stem[0]}
    if basic:
        sizes["basic_layer"] = True
    if basic or width != 4 * stem[0]:
        sizes["reduction"] = width // stem[0]
    if not basic and inner[:2] != (stem[0], stem[0]):
        sizes["base_width_and_cardinality"] = (inner[1], inner[0] // inner[1])
    options = {
        "in_channels": stem[1],
        "small_input": stem[2] == 3,
        "final_bn_relu": f"{last}.residual.{end}.norm.weight" in t,
        **infer_squeeze(t, f"{first}.se", width),
    }
    return Inferred(options, sizes)


SHAPES = FamilyShapes(
    "resnext",
    infer,
    read_num_blocks,
    NORM_OPTIONS,
    probes=lambda theirs: [{"is_basic": basic} for basic in (True, False)],
)
