"""The config of a ResNeXt3D, read from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from classy_vision.weights.shapes import (
    NORM_OPTIONS,
    FamilyShapes,
    Inferred,
    Shapes,
    count_blocks,
    read_num_blocks,
)

TRANSFORMATIONS = (
    "preactivated_bottleneck_transformation",
    "postactivated_bottleneck_transformation",
    "basic_transformation",
    "basic_r2plus1d_transformation",
)


def infer(t: Shapes) -> Inferred:
    deep, first = count_blocks(t), "blocks.pathway0-stage1-block0.residual"
    kind, end = _infer_transformation(t)
    basic = kind.startswith("basic")
    norm = t.get("blocks.pathway0-stage2-block0.skip.norm.weight")
    pre = norm is not None and norm[0] == t["blocks.pathway0-stage2-block0.skip.conv.weight"][1]
    kernels = [_infer_kernels(t, s, depth, basic) for s, depth in enumerate(deep, 1)]
    inner = t[f"{first}.b.conv.weight"] if not basic else (64, 64)
    lone = inner[1] == 1 and inner[0] > 1
    sizes = {
        "num_blocks": deep,
        "residual_transformation_type": kind,
        "skip_transformation_type": "preactivated_shortcut" if pre else "postactivated_shortcut",
        "stage_planes": t[f"{first}.{end}.weight"][0],
        "num_groups": "depthwise" if lone else inner[0] // inner[1],
        "width_per_group": inner[0] if lone else inner[1],
        "stage_temporal_kernel_basis": [basis for basis, _ in kernels],
        "temporal_conv_1x1": [early for _, early in kernels],
        "stage_temporal_stride": [1] + [2] * (len(deep) - 1),
        "stage_spatial_stride": [1] + [2] * (len(deep) - 1),
        "stage_temporal_pool": [1] * len(deep),
        "stem_maxpool": not basic,
        "frames_per_clip": 16 if basic else 8,
        "clip_crop_size": 112 if basic else 224,
    }
    if split := t.get("stem.conv.spatial.weight"):
        planes = t["stem.conv.temporal.weight"][0]
        sizes |= {"stem_name": "r2plus1d_stem", "stem_planes": planes, "r2plus1d_stem_kernel": split[3]}
        return Inferred({"in_channels": split[1]}, sizes)
    planes, channels, time, size, _ = t["stem.conv.weight"]
    sizes |= {"stem_planes": planes, "stem_temporal_kernel": time, "stem_spatial_kernel": size}
    return Inferred({"in_channels": channels}, sizes)


def _infer_transformation(t: Shapes) -> tuple[str, str]:
    """Returns the kind of blocks, and the name of their last convolution."""
    first = "blocks.pathway0-stage1-block0.residual"
    if f"{first}.a.conv.spatial.weight" in t:
        return "basic_r2plus1d_transformation", "b.conv.temporal"
    if f"{first}.c.conv.weight" not in t:
        return "basic_transformation", "b.conv"
    pre = any(key.endswith("-bn.weight") for key in t)
    return f"{'pre' if pre else 'post'}activated_bottleneck_transformation", "c.conv"


def _infer_kernels(t: Shapes, stage: int, depth: int, basic: bool) -> tuple[list[int], bool]:
    """Returns the temporal kernels of a stage, and whether the first 1x1 convolution has them."""
    blocks = [f"blocks.pathway0-stage{stage}-block{i}.residual" for i in range(depth)]
    a = [t.get(f"{block}.a.conv.weight", (0, 0, 3))[2] for block in blocks]
    if basic or max(a) > 1:
        return a, not basic
    return [t[f"{block}.b.conv.weight"][2] for block in blocks], False


def probe(theirs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    stages = len({key.split(".")[1] for key in theirs if ".res_blocks." in key}) or 4
    for kind, stem, pool in product(TRANSFORMATIONS, ("resnext3d_stem", "r2plus1d_stem"), (1, 2)):
        yield {
            "residual_transformation_type": kind,
            "skip_transformation_type": "",
            "stem_name": stem,
            "num_blocks": (1,) * stages,
            "stage_temporal_pool": (pool, *(1,) * (stages - 1)),
        }


SHAPES = FamilyShapes(
    "resnext3d",
    infer,
    read_num_blocks,
    ("stage_temporal_stride", "stage_spatial_stride", "stage_temporal_pool", "stem_maxpool", *NORM_OPTIONS),
    probe,
    variants=({"midplanes": "per_block"},),
)
