"""The config of an EfficientNet, read from the shapes of its tensors.

No tensor shows a stride, so that networks of other stages than EfficientNet's are found among the presets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

from classy_vision.models.efficientnet.keys import Kind, Kinds
from classy_vision.models.efficientnet.networks import NETWORKS, PRESETS
from classy_vision.weights.shapes import NORM_OPTIONS, FamilyShapes, Inferred, Shapes, count_blocks

_STAGES = [stage[0] for stage in NETWORKS["efficientnet"]]
_REPEATS = [row["repeats"] for row in _STAGES]
_DEPTHS = [step / 20 for step in range(1, 81)]
"""Scales that are tried."""


def infer(t: Shapes) -> Inferred:
    """A scale that is not a preset's gets the least depth that gives these blocks."""
    depths = count_blocks(t)
    options = {"in_channels": t["stem.conv.weight"][1]}
    if "tail.conv.weight" not in t or len(depths) != len(_REPEATS):
        return Inferred(options, {})
    depth = min(n / times for n, times in zip(depths, _REPEATS))
    width = t["tail.conv.weight"][0] / 1280
    scale = {"width_coefficient": width, "depth_coefficient": depth, "resolution": 224, "dropout_rate": 0.2}
    return Inferred(options, {"model_params": scale})


# -- probes: what rows read, from the names of another library


def probe(theirs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields what rows of layouts read of a config, for the keys of a file."""
    common = {"kinds": (), "hidden": "bn2.weight" not in theirs, "activation": "silu"}
    if ("conv_stem.weight" in theirs and "classifier.weight" in theirs) or "bn1.weight" in theirs:
        yield {**common, "kinds": _read_kinds(theirs, r"blocks\.(\d+)\.(\d+)\.(.*)", _timm_kind)}
    elif "features.1.0.block.0.0.weight" in theirs:
        kinds = _read_kinds(theirs, r"features\.(\d+)\.(\d+)\.block\.(.*)", _torchvision_kind)
        yield {**common, "kinds": kinds}
    elif "features.0.0.weight" in theirs or "layers.0.weight" in theirs:
        yield from _mobile_presets(common)
    else:
        yield from ({**common, "blocks": blocks} for blocks in _count_through(theirs))


def _read_kinds(theirs: Mapping[str, Any], pattern: str, kind: Any) -> Kinds:
    """The kinds of blocks whose keys tell their stage and their index."""
    found: dict[int, dict[int, set[str]]] = {}
    for match in filter(None, (re.match(pattern, key) for key in theirs)):
        found.setdefault(int(match[1]), {}).setdefault(int(match[2]), set()).add(match[3])
    return [[kind(blocks[i]) for i in sorted(blocks)] for _, blocks in sorted(found.items())]


_TIMM = {
    "conv_exp.weight": "fused",
    "conv_pwl.weight": "mbconv",
    "conv_pwl.0.weight": "mbconv",
    "conv_pw.weight": "separable",
    "conv.weight": "conv",
    "pw_exp.conv.weight": "universal",
}


def _timm_kind(names: set[str]) -> Kind:
    block = next((kind for name, kind in _TIMM.items() if name in names), "attention")
    groups = tuple(2 if f"{name}.1.weight" in names else 1 for name in ("conv_pw", "conv_pwl"))
    return Kind(block, "se.conv_reduce.weight" in names, (groups[0], groups[1]))


def _torchvision_kind(names: set[str]) -> Kind:
    """Of EfficientNet: an mbconv has four parts."""
    if "3.0.weight" in names:
        return Kind("mbconv", squeeze=True)
    if "1.fc1.weight" in names:
        return Kind("separable", squeeze=True)
    return Kind("fused" if "1.0.weight" in names else "conv")


def _mobile_presets(common: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Of torchvision's networks that count blocks through all stages."""
    for name in ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "mnasnet1_0"):
        preset = PRESETS[name]
        kinds = [
            [Kind(row["block"], row.get("squeeze", 0) > 0) for row in stage for _ in range(row["repeats"])]
            for stage in NETWORKS[preset["stages"]]
        ]
        yield {**common, "kinds": kinds, "activation": preset["activation"]}


def _count_through(theirs: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yields the names of blocks, which some layouts count through, at scales with so many."""
    total = len({match[1] for key in theirs if (match := re.search(r"(?:^_|\.)blocks\.(\d+)\.", key))})
    found = {tuple(ceil(depth * times) for times in _REPEATS) for depth in _DEPTHS}
    for counts in [counts for counts in sorted(found) if sum(counts) == total] or [()]:
        yield [f"block{s}-{i}" for s, n in enumerate(counts) for i in range(n)]


SHAPES = FamilyShapes(
    "efficientnet",
    infer,
    lambda config: tuple(map(len, config.kinds)),
    ("padding", "activation", "squeeze", "anti_alias", *NORM_OPTIONS),
    probe,
    ({"use_se": False},),
)
