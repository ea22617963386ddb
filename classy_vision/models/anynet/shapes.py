"""The config of an AnyNet or RegNet, read from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from types import SimpleNamespace
from typing import Any

from classy_vision.weights.shapes import NORM_OPTIONS, FamilyShapes, Inferred, Shapes, count_blocks

VANILLA, BASIC, BOTTLENECK, LINEAR = BLOCK_TYPES = (
    "vanilla_block",
    "res_basic_block",
    "res_bottleneck_block",
    "res_bottleneck_linear_block",
)


def infer(t: Shapes) -> Inferred:
    stem, deep = t["stem.conv.weight"], count_blocks(t)
    firsts = [f"blocks.block{s}-0" for s in range(1, len(deep) + 1)]
    kind, last = _infer_block_type(t)
    widths = [t[f"{p}.{last}.conv.weight"][0] for p in firsts]
    before = [stem[0], *widths]
    changes = [a != b for a, b in zip(before, widths)]
    inner = [(w, w) if "c" not in last else t[f"{p}.residual.b.conv.weight"] for p, w in zip(firsts, widths)]
    if "c" in last and any(changes) and not any(f"{p}.shortcut.conv.weight" in t for p in firsts):
        kind = LINEAR
    strided = [kind in _NO_SHORTCUT or c or f"{p}.shortcut.conv.weight" in t for p, c in zip(firsts, changes)]
    sizes = {
        "depths": deep,
        "widths": widths,
        "group_widths": [shape[1] for shape in inner],
        "bottleneck_multipliers": [float(shape[0] / w) for shape, w in zip(inner, widths)],
        "strides": [2 if far else 1 for far in strided],
        "block_type": kind,
    }
    squeezes = [(t[key][0], w) for p, w in zip(firsts, before) if (key := f"{p}.{_SE}") in t]
    options: dict[str, Any] = {
        "in_channels": stem[1],
        "stem_type": "res_stem_in" if stem[2] == 7 else "simple_stem_in",
        "stem_width": stem[0],
        "use_se": bool(squeezes) or "c" not in last,
    }
    if any(max(1, round(w / 4)) != squeeze for squeeze, w in squeezes):
        options["se_ratio"] = squeezes[-1][0] / squeezes[-1][1]
    return Inferred(options, sizes)


_SE = "residual.se.excitation.0.weight"
_NO_SHORTCUT = (VANILLA, LINEAR)


def _infer_block_type(t: Shapes) -> tuple[str, str]:
    """Returns the type of blocks, and the name of their last convolution."""
    if "blocks.block1-0.b.conv.weight" in t:
        return VANILLA, "b"
    if "blocks.block1-0.residual.c.conv.weight" in t:
        return BOTTLENECK, "residual.c"
    return BASIC, "residual.b"


def probe(theirs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for kind, use_se in product(BLOCK_TYPES, (True, False)):
        yield {"block_type": SimpleNamespace(value=kind), "use_se": use_se}  # as a member of the config's enum


SHAPES = FamilyShapes(
    "anynet",
    infer,
    lambda config: config.to_anynet().depths,
    ("activation", "final_activation", "strides", *NORM_OPTIONS),
    probe,
    variants=({"width_rounding": "torchvision"},),
    is_general=True,
)
