"""Published layouts of DenseNet."""

from __future__ import annotations

from classy_vision.weights.key_map import Renaming, Row
from classy_vision.weights.layout import CLASSIFIER, Layout, Layouts, nest_rows

_PARTS = {"norm-1": "norm1", "conv-1": "conv1", "norm-2": "norm2", "conv-2": "conv2", "se": "se"}
_CLASSY_VISION: list[Row] = [
    ("initial_block.0", "stem.conv"),
    ("initial_block.1", "stem.norm"),
    *nest_rows("features.block_{s}.block{s}-{i}", "blocks.block{s}-{i}", _PARTS),
    ("features.transition-{s}.pool-norm", "blocks.transition-{s}.norm"),
    ("features.transition-{s}.pool-conv", "blocks.transition-{s}.conv"),
    ("features.trunk_output.norm-final", "tail.norm"),
]
_LAYER = "features.denseblock{s}.denselayer{i}"
_ROWS: list[Row] = [
    ("features.conv0", "stem.conv"),
    ("features.norm0", "stem.norm"),
    ("features.denseblock{s+1}.denselayer{i+1}", "blocks.block{s}-{i}"),
    ("features.transition{s+1}", "blocks.transition-{s}"),
    ("features.norm5", "tail.norm"),
    ("classifier", CLASSIFIER),
]
_BEFORE_1_0: list[Renaming] = [
    (f"{_LAYER}.{part}.{n}", f"{_LAYER}.{part}{n}") for part in ("norm", "conv") for n in (1, 2)
]

LAYOUTS: Layouts = {
    "classy_vision": Layout(_CLASSY_VISION),
    "torchvision": Layout(_ROWS, _BEFORE_1_0),
    "timm": Layout(_ROWS),
}
