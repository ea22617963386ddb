"""Published layouts of ResNet and ResNeXt, wide and squeeze-and-excitation ones among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classy_vision.weights.key_map import REVERSE_CHANNELS, Renaming, Row
from classy_vision.weights.layout import CLASSIFIER, Layout, Layouts, nest_rows

_BLOCK = "blocks.block{s}-{i}"
_THEIRS = "blocks.{s}.block{s}-{i}"
_BEFORE_0_2: list[Renaming] = [("blocks.{s}.{i}._module", _THEIRS)]


def _classy_vision(config: Any) -> list[Row]:
    """A block's last norm is ``bn``, the second or the third."""
    parts = {"convolutional_block.0": "residual.a.conv", "convolutional_block.1": "residual.a.norm"}
    if config.is_basic:
        parts |= {"convolutional_block.3": "residual.b.conv", "bn": "residual.b.norm"}
    else:
        parts |= {"convolutional_block.3": "residual.b.conv", "convolutional_block.4": "residual.b.norm"}
        parts |= {"convolutional_block.6": "residual.c.conv", "bn": "residual.c.norm"}
    parts |= {"downsample.0": "shortcut.conv", "downsample.1": "shortcut.norm", "se": "se"}
    stem: list[Row] = [
        ("initial_block._module.0", "stem.conv"),
        ("initial_block._module.1", "stem.norm"),
    ]
    return stem + nest_rows(_THEIRS, _BLOCK, parts)


_TORCHVISION = {
    "conv1": "residual.a.conv",
    "bn1": "residual.a.norm",
    "conv2": "residual.b.conv",
    "bn2": "residual.b.norm",
    "conv3": "residual.c.conv",
    "bn3": "residual.c.norm",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.norm",
    "se.fc1": "se.excitation.0",  # timm's
    "se.fc2": "se.excitation.2",
}
_TIMM_D = {"downsample.1": "shortcut.project.conv", "downsample.2": "shortcut.project.norm"}
_DEEP: list[Row] = [
    ("conv1.0", "stem.a.conv"),
    ("conv1.1", "stem.a.norm"),
    ("conv1.3", "stem.b.conv"),
    ("conv1.4", "stem.b.norm"),
    ("conv1.6", "stem.conv"),
]
_PYCLS = {
    "f.a": "residual.a.conv",
    "f.a_bn": "residual.a.norm",
    "f.b": "residual.b.conv",
    "f.b_bn": "residual.b.norm",
    "f.c": "residual.c.conv",
    "f.c_bn": "residual.c.norm",
    "proj": "shortcut.conv",
    "bn": "shortcut.norm",
}
_TRANSFORMERS = {
    "layer.0.convolution": "residual.a.conv",
    "layer.0.normalization": "residual.a.norm",
    "layer.1.convolution": "residual.b.conv",
    "layer.1.normalization": "residual.b.norm",
    "layer.2.convolution": "residual.c.conv",
    "layer.2.normalization": "residual.c.norm",
    "shortcut.convolution": "shortcut.conv",
    "shortcut.normalization": "shortcut.norm",
}


def _torchvision(prefix: str, head: str) -> list[Row]:
    return [
        (f"{prefix}conv1", "stem.conv"),
        (f"{prefix}bn1", "stem.norm"),
        *nest_rows(prefix + "layer{s+1}.{i}", _BLOCK, _TORCHVISION),
        (head, CLASSIFIER),
    ]


def _timm(config: Any) -> list[Row]:
    """As torchvision's, with what timm's variants have besides."""
    parts = dict(_TORCHVISION)
    if config.shortcut == "avg":
        parts = {key: ours for key, ours in parts.items() if "downsample" not in key} | _TIMM_D
    if config.use_eca:
        parts = {key: ours for key, ours in parts.items() if "se." not in key} | {"se.conv": "se.conv"}
    return [
        *([("conv1", "stem.conv")] if config.stem == "conv7" else _DEEP),
        ("bn1", "stem.norm"),
        ("maxpool.0", "stem.pool.conv"),
        ("maxpool.1", "stem.pool.norm"),
        *nest_rows("layer{s+1}.{i}", _BLOCK, parts),
        ("fc", CLASSIFIER),
    ]


def list_probes(theirs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What rows read of a config, for the keys of a file."""
    variant = {
        "stem": "deep" if any("conv1.6." in key for key in theirs) else "conv7",
        "shortcut": "avg" if any(".downsample.2." in key for key in theirs) else "conv",
        "use_eca": any(".se.conv." in key for key in theirs),
    }
    return [{"is_basic": basic, **variant} for basic in (True, False)]


LAYOUTS: Layouts = {
    "classy_vision": Layout(_classy_vision, _BEFORE_0_2),
    "torchvision": Layout(_torchvision("", "fc")),
    "timm": Layout(_timm),
    "vissl": Layout(_torchvision("_feature_blocks.", "heads.0.clf.0")),
    "pycls": Layout(
        [
            ("stem.conv.weight", "stem.conv.weight", REVERSE_CHANNELS),
            ("stem.bn", "stem.norm"),
            *nest_rows("s{s+1}.b{i+1}", _BLOCK, _PYCLS),
            ("head.fc", CLASSIFIER),
        ]
    ),
    "transformers": Layout(
        [
            ("resnet.embedder.embedder.convolution", "stem.conv"),
            ("resnet.embedder.embedder.normalization", "stem.norm"),
            *nest_rows("resnet.encoder.stages.{s}.layers.{i}", _BLOCK, _TRANSFORMERS),
            ("classifier.1", CLASSIFIER),
        ]
    ),
}
