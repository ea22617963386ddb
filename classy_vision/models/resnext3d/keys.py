"""Published layouts of ResNeXt3D: video networks of torchvision, VMZ, pytorchvideo and SlowFast."""

from __future__ import annotations

from typing import Any

from classy_vision.weights.key_map import Row
from classy_vision.weights.layout import CLASSIFIER, Layout, Layouts, nest_rows

_BLOCK = "blocks.pathway0-stage{s}-block{i}"
_SPLIT = {"0": "spatial", "1": "norm", "3": "temporal"}
_STAGE = "stages.{s}.pathway0.pathway0-stage{s+1}-block{i}"
_NEXT = "blocks.pathway0-stage{s+1}-block{i}"
_BRANCH = {f"branch2{x}": f"residual.{x}.conv" for x in "abc"}
_BRANCH_NORM = {f"branch2{x}_bn": f"residual.{x}.norm" for x in "abc"}


def _pairs(first: dict[str, str], second: dict[str, str]) -> dict[str, str]:
    return {f"residual.{a}": b for pair in zip(first.items(), second.items()) for a, b in pair}


_TRANSFORMATIONS = {
    "basic_transformation": {
        "residual.transform.0": "residual.a.conv",
        "residual.transform.1": "residual.a.norm",
        "residual.transform.3": "residual.b.conv",
        "residual.transform.4": "residual.b.norm",
    },
    "basic_r2plus1d_transformation": {
        **{f"residual.transform.0.{n}": f"residual.a.conv.{part}" for n, part in _SPLIT.items()},
        "residual.transform.1": "residual.a.norm",
        **{f"residual.transform.3.{n}": f"residual.b.conv.{part}" for n, part in _SPLIT.items()},
        "residual.transform.4": "residual.b.norm",
    },
    "postactivated_bottleneck_transformation": _pairs(_BRANCH, _BRANCH_NORM),
    "preactivated_bottleneck_transformation": _pairs(_BRANCH_NORM, _BRANCH),
}


def _classy_vision(config: Any) -> list[Row]:
    """The order of norms and convolutions is that in which they run."""
    skip = {"skip.branch1": "skip.conv", "skip.branch1_bn": "skip.norm"}
    if config.skip_transformation_type == "preactivated_shortcut":
        skip = dict(reversed(skip.items()))
    stem = {"conv": "conv", "bn": "norm"}
    if config.stem_name == "r2plus1d_stem":
        stem = {**{f"conv.{n}": f"conv.{part}" for n, part in _SPLIT.items()}, **stem}
    return [
        *nest_rows("stem.stem.stem-path0", "stem", stem),
        *nest_rows(_STAGE, _NEXT, skip | _TRANSFORMATIONS[config.residual_transformation_type]),
        (f"{_STAGE}-bn", f"{_NEXT}-bn"),
    ]


def _torchvision(config: Any) -> list[Row]:
    """The first convolution, or one in time and one in space (2+1)."""
    if config.stem_name == "r2plus1d_stem":
        stem = {**{n: f"conv.{part}" for n, part in _SPLIT.items()}, "4": "norm"}
    else:
        stem = {"0": "conv", "1": "norm"}
    parts: dict[str, str] = {}
    for x, number in zip("abc", "123"):
        if config.residual_transformation_type == "basic_r2plus1d_transformation":
            parts |= {f"conv{number}.0.{n}": f"residual.{x}.conv.{part}" for n, part in _SPLIT.items()}
        parts |= {f"conv{number}.0": f"residual.{x}.conv", f"conv{number}.1": f"residual.{x}.norm"}
    parts |= {"downsample.0": "skip.conv", "downsample.1": "skip.norm"}
    return [*nest_rows("stem", "stem", stem), *nest_rows("layer{s}.{i}", _BLOCK, parts), ("fc", CLASSIFIER)]


def _pytorchvideo(config: Any) -> list[Row]:
    """A flat list of stem, stages and head; a pool takes a place of its own."""
    parts = {"branch1_conv": "skip.conv", "branch1_norm": "skip.norm"}
    for x in "abc":
        parts |= {f"branch2.conv_{x}": f"residual.{x}.conv", f"branch2.norm_{x}": f"residual.{x}.norm"}
    rows: list[Row] = [("blocks.0.conv", "stem.conv"), ("blocks.0.norm", "stem.norm")]
    place = 1
    for s in range(1, len(config.num_blocks) + 1):
        block = _BLOCK.replace("{s}", str(s))
        rows += nest_rows(f"blocks.{place}.res_blocks.{{i}}", block, parts)
        place += 1 if config.stage_temporal_pool[s - 1] == 1 else 2
    return [*rows, (f"blocks.{place}.proj", CLASSIFIER)]


_SLOWFAST = {
    "branch1": "skip.conv",
    "branch1_bn": "skip.norm",
    **{f"branch2.{x}": f"residual.{x}.conv" for x in "abc"},
    **{f"branch2.{x}_bn": f"residual.{x}.norm" for x in "abc"},
}

LAYOUTS: Layouts = {
    "classy_vision": Layout(_classy_vision),
    "torchvision": Layout(_torchvision),
    "pytorchvideo": Layout(_pytorchvideo),
    "slowfast": Layout(
        [
            ("s1.pathway0_stem.conv", "stem.conv"),
            ("s1.pathway0_stem.bn", "stem.norm"),
            *nest_rows("s{s+1}.pathway0_res{i}", _BLOCK, _SLOWFAST),
            ("head.projection", CLASSIFIER),
        ]
    ),
}
