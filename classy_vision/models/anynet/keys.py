"""Published layouts of RegNet and other AnyNets."""

from __future__ import annotations

from typing import Any

from classy_vision.weights.key_map import REVERSE_CHANNELS, Renaming, Row
from classy_vision.weights.layout import CLASSIFIER, HEAD, Layout, Layouts, nest_rows

_BLOCK = "blocks.block{s}-{i}"
_SHORTCUT = {"proj": "shortcut.conv", "bn": "shortcut.norm"}
_BOTTLENECK = {
    **_SHORTCUT,
    "f.a.0": "residual.a.conv",
    "f.a.1": "residual.a.norm",
    "f.b.0": "residual.b.conv",
    "f.b.1": "residual.b.norm",
    "f.se": "residual.se",
    "f.c": "residual.c.conv",
    "f.final_bn": "residual.c.norm",
}
_CLASSY_VISION = {  # by the type of the blocks
    "vanilla_block": {"a.0": "a.conv", "a.1": "a.norm", "b.0": "b.conv", "b.1": "b.norm"},
    "res_basic_block": {
        **_SHORTCUT,
        "f.a.0": "residual.a.conv",
        "f.a.1": "residual.a.norm",
        "f.a.3": "residual.b.conv",
        "f.final_bn": "residual.b.norm",
    },
    "res_bottleneck_block": _BOTTLENECK,
    "res_bottleneck_linear_block": _BOTTLENECK,
}
_TORCHVISION = {
    "proj.0": "shortcut.conv",
    "proj.1": "shortcut.norm",
    "f.a.0": "residual.a.conv",
    "f.a.1": "residual.a.norm",
    "f.b.0": "residual.b.conv",
    "f.b.1": "residual.b.norm",
    "f.se.fc1": "residual.se.excitation.0",
    "f.se.fc2": "residual.se.excitation.2",
    "f.c.0": "residual.c.conv",
    "f.c.1": "residual.c.norm",
}
_TIMM = {
    "conv1.conv": "residual.a.conv",
    "conv1.bn": "residual.a.norm",
    "conv2.conv": "residual.b.conv",
    "conv2.bn": "residual.b.norm",
    "se.fc1": "residual.se.excitation.0",
    "se.fc2": "residual.se.excitation.2",
    "conv3.conv": "residual.c.conv",
    "conv3.bn": "residual.c.norm",
    "downsample.conv": "shortcut.conv",
    "downsample.bn": "shortcut.norm",
}
_PYCLS = {
    "proj": "shortcut.conv",
    "bn": "shortcut.norm",
    "f.a": "residual.a.conv",
    "f.a_bn": "residual.a.norm",
    "f.b": "residual.b.conv",
    "f.b_bn": "residual.b.norm",
    "f.se.f_ex": "residual.se.excitation",
    "f.c": "residual.c.conv",
    "f.c_bn": "residual.c.norm",
    "a": "a.conv",  # plain blocks
    "a_bn": "a.norm",
    "b": "b.conv",
    "b_bn": "b.norm",
}


def _transformers(config: Any) -> list[Row]:
    """In the list of a block's layers, squeeze-and-excitation counts if there is one."""
    last = 3 if config.use_se else 2
    parts = {
        "shortcut.convolution": "shortcut.conv",
        "shortcut.normalization": "shortcut.norm",
        "layer.0.convolution": "residual.a.conv",
        "layer.0.normalization": "residual.a.norm",
        "layer.1.convolution": "residual.b.conv",
        "layer.1.normalization": "residual.b.norm",
        "layer.2.attention": "residual.se.excitation",
        f"layer.{last}.convolution": "residual.c.conv",
        f"layer.{last}.normalization": "residual.c.norm",
    }
    return [
        ("regnet.embedder.embedder.convolution", "stem.conv"),
        ("regnet.embedder.embedder.normalization", "stem.norm"),
        *nest_rows("regnet.encoder.stages.{s}.layers.{i}", "blocks.block{s+1}-{i}", parts),
        ("classifier.1", CLASSIFIER),
    ]


def _classy_vision(config: Any) -> list[Row]:
    return _trunk("stem.stem", "trunk_output.block{s}", _CLASSY_VISION[config.block_type.value])


def _trunk(stem: str, stage: str, parts: dict[str, str]) -> list[Row]:
    return [
        (f"{stem}.0", "stem.conv"),
        (f"{stem}.1", "stem.norm"),
        *nest_rows(stage + ".block{s}-{i}", _BLOCK, parts),
    ]


_PARTS_OF_STAGES: list[Renaming] = [  # of models trained in shards
    ("_feature_blocks.res{r}.block{s}-part{p}.block{s}-{i}", "_feature_blocks.res{r}.block{s}-{i}"),
]

LAYOUTS: Layouts = {
    "classy_vision": Layout(_classy_vision),
    "torchvision": Layout(
        [
            ("stem.0", "stem.conv"),
            ("stem.1", "stem.norm"),
            *nest_rows("trunk_output.block{s}.block{s}-{i}", _BLOCK, _TORCHVISION),
            ("fc", CLASSIFIER),
        ]
    ),
    "timm": Layout(
        [
            ("stem.conv", "stem.conv"),
            ("stem.bn", "stem.norm"),
            *nest_rows("s{s}.b{i+1}", _BLOCK, _TIMM),
            ("final_conv.conv", f"{HEAD}conv"),
            ("final_conv.bn", f"{HEAD}bn"),
            ("head.fc", CLASSIFIER),
        ]
    ),
    "pycls": Layout(
        [
            ("stem.conv.weight", "stem.conv.weight", REVERSE_CHANNELS),
            ("stem.bn", "stem.norm"),
            *nest_rows("s{s}.b{i+1}", _BLOCK, _PYCLS),
            ("head.conv", f"{HEAD}conv"),
            ("head.bn", f"{HEAD}bn"),
            ("head.fc", CLASSIFIER),
        ]
    ),
    "transformers": Layout(_transformers),
    "swag": Layout([*_trunk("stem.stem", "trunk_output.block{s}", _BOTTLENECK), ("head.fc", CLASSIFIER)]),
    "vissl": Layout(
        [
            *_trunk("_feature_blocks.conv1.stem", "_feature_blocks.res{s+1}", _BOTTLENECK),
            ("heads.0.clf.0", CLASSIFIER),
        ],
        _PARTS_OF_STAGES,
    ),
}
