"""The config of a ResNet or ResNeXt, read from the shapes of its tensors."""

from __future__ import annotations

from typing import Any

from classy_vision.models.resnext.keys import list_probes
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
    three = "stem.a.conv.weight" in t
    planes = _infer_planes(t, basic)
    sizes: dict[str, Any] = {"num_blocks": deep, "init_planes": planes}
    if basic:
        sizes["basic_layer"] = True
    if basic or width != 4 * planes:
        sizes["reduction"] = width // planes
    if not basic and inner[:2] != (planes, planes):
        sizes["base_width_and_cardinality"] = (inner[1], inner[0] // inner[1])
    options = {
        "in_channels": t["stem.a.conv.weight" if three else "stem.conv.weight"][1],
        "small_input": stem[2] == 3 and not three,
        "final_bn_relu": f"{last}.residual.{end}.norm.weight" in t,
        "use_eca": f"{first}.se.conv.weight" in t,
        "stem_pool": "conv" if "stem.pool.conv.weight" in t else "max",
        "shortcut": "avg" if any(".shortcut.project." in key for key in t) else "conv",
        "norm": "batch" if "stem.norm.running_mean" in t else "group",
        **(_infer_deep_stem(t) if three else {}),
        **infer_squeeze(t, f"{first}.se", width),
    }
    return Inferred(options, sizes)


def _infer_planes(t: Shapes, basic: bool) -> int:
    """Inner channels of the first stage; with groups they are those of the stem."""
    stem = t["stem.conv.weight"][0]
    if "stem.a.conv.weight" not in t:
        return stem
    return t["blocks.block0-0.residual.a.conv.weight"][0] if basic else 64


def _infer_deep_stem(t: Shapes) -> dict[str, Any]:
    first, width = t["stem.a.conv.weight"][0], t["stem.b.conv.weight"][0]
    return {"stem": "deep" if first == width else "tiered", "stem_width": width}


SHAPES = FamilyShapes(
    "resnext",
    infer,
    read_num_blocks,
    ("anti_alias", *NORM_OPTIONS),
    probes=list_probes,
)
