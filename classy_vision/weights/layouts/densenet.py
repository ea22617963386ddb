"""Published layouts of DenseNet."""

from __future__ import annotations

from classy_vision.weights.key_map import Renaming, Row
from classy_vision.weights.layout import CLASSIFIER, Layout, Layouts

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
    "torchvision": Layout(_ROWS, _BEFORE_1_0),
    "timm": Layout(_ROWS),
}
