"""Published layouts of EfficientNet.

The blocks of the first stage have no expansion, so torchvision and timm number their parts
otherwise.
"""

from __future__ import annotations

from classy_vision.weights.key_map import REVERSE_CHANNELS, Row
from classy_vision.weights.layout import CLASSIFIER, Layout, Layouts, nest_rows, transform_row

_FIRST, _BLOCK, _NTH = "blocks.block0-{i}", "blocks.block{s}-{i}", "blocks.{n:block}"
_OURS = (
    ("expand.conv", "expand.norm"),
    ("depthwise.conv", "depthwise.norm"),
    ("se.excitation.0", "se.excitation.2"),
    ("project.conv", "project.norm"),
)


def _parts(*theirs: tuple[str, str]) -> dict[str, str]:
    """The parts of a block, from the last: those of the first stage have three pairs."""
    pairs = zip(theirs, _OURS[-len(theirs) :])
    return {a: b for names, ours in pairs for a, b in zip(names, ours)}


_CLASSY_VISION: list[Row] = [
    ("conv_stem", "stem.conv"),
    ("bn0", "stem.norm"),
    *nest_rows(
        _BLOCK,
        _BLOCK,
        _parts(
            ("expand_conv", "bn0"),
            ("depthwise_conv", "bn1"),
            ("se_reduce", "se_expand"),
            ("project_conv", "bn2"),
        ),
    ),
    ("conv_head", "tail.conv"),
    ("bn1", "tail.norm"),
]
_TORCHVISION: list[Row] = [
    ("features.0.0", "stem.conv"),
    ("features.0.1", "stem.norm"),
    *nest_rows("features.1.{i}.block", _FIRST, _parts(("0.0", "0.1"), ("1.fc1", "1.fc2"), ("2.0", "2.1"))),
    *nest_rows(
        "features.{s+1}.{i}.block",
        _BLOCK,
        _parts(("0.0", "0.1"), ("1.0", "1.1"), ("2.fc1", "2.fc2"), ("3.0", "3.1")),
    ),
    ("features.8.0", "tail.conv"),
    ("features.8.1", "tail.norm"),
    ("classifier.1", CLASSIFIER),
]
_SE = ("se.conv_reduce", "se.conv_expand")
_TIMM: list[Row] = [
    ("conv_stem", "stem.conv"),
    ("bn1", "stem.norm"),
    *nest_rows("blocks.0.{i}", _FIRST, _parts(("conv_dw", "bn1"), _SE, ("conv_pw", "bn2"))),
    *nest_rows(
        "blocks.{s}.{i}",
        _BLOCK,
        _parts(("conv_pw", "bn1"), ("conv_dw", "bn2"), _SE, ("conv_pwl", "bn3")),
    ),
    ("conv_head", "tail.conv"),
    ("bn2", "tail.norm"),
    ("classifier", CLASSIFIER),
]
_LUKEMELAS: list[Row] = [
    ("_conv_stem", "stem.conv"),
    ("_bn0", "stem.norm"),
    *nest_rows(
        "_blocks.{n}",
        _NTH,
        _parts(
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_se_reduce", "_se_expand"),
            ("_project_conv", "_bn2"),
        ),
    ),
    ("_conv_head", "tail.conv"),
    ("_bn1", "tail.norm"),
    ("_fc", CLASSIFIER),
]
_PYCLS: list[Row] = [
    ("stem.conv.weight", "stem.conv.weight"),
    ("stem.bn", "stem.norm"),
    *nest_rows(
        "s{s+1}.b{i+1}",
        _BLOCK,
        _parts(
            ("exp", "exp_bn"),
            ("dwise", "dwise_bn"),
            ("se.f_ex.0", "se.f_ex.2"),
            ("lin_proj", "lin_proj_bn"),
        ),
    ),
    ("head.conv", "tail.conv"),
    ("head.conv_bn", "tail.norm"),
    ("head.fc", CLASSIFIER),
]
_TRANSFORMERS: list[Row] = [
    ("efficientnet.embeddings.convolution", "stem.conv"),
    ("efficientnet.embeddings.batchnorm", "stem.norm"),
    *nest_rows(
        "efficientnet.encoder.blocks.{n}",
        _NTH,
        _parts(
            ("expansion.expand_conv", "expansion.expand_bn"),
            ("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
            ("squeeze_excite.reduce", "squeeze_excite.expand"),
            ("projection.project_conv", "projection.project_bn"),
        ),
    ),
    ("efficientnet.encoder.top_conv", "tail.conv"),
    ("efficientnet.encoder.top_bn", "tail.norm"),
    ("classifier", CLASSIFIER),
]

WITHOUT_CLASSIFIER = Layout(_CLASSY_VISION, dropped=["fc"])
"""The original kept a classifier in the trunk, beside whatever heads there were."""
LAYOUTS: Layouts = {
    "classy_vision": Layout([*_CLASSY_VISION, ("fc", "heads.trunk_output.default_head.fc")]),
    "torchvision": Layout(_TORCHVISION),
    "timm": Layout(_TIMM),
    "lukemelas": Layout(_LUKEMELAS),
    "pycls": Layout(transform_row(_PYCLS, "stem.conv.weight", REVERSE_CHANNELS)),
    "transformers": Layout(_TRANSFORMERS),
}
