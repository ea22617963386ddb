"""The config of a DenseNet, read from the shapes of its tensors."""

from __future__ import annotations

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
    stem, first = t["stem.conv.weight"], "blocks.block0-0"
    inner, growth = t[f"{first}.conv1.weight"][0], t[f"{first}.conv2.weight"][0]
    sizes = {"num_blocks": count_blocks(t), "init_planes": stem[0], "growth_rate": growth}
    options = {
        "in_channels": stem[1],
        "expansion": inner // growth,
        "small_input": stem[2] == 3,
        "final_bn_relu": "tail.norm.weight" in t,
        **infer_squeeze(t, f"{first}.se", growth),
    }
    return Inferred(options, sizes)


SHAPES = FamilyShapes("densenet", infer, read_num_blocks, NORM_OPTIONS)
