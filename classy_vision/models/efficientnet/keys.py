"""Published layouts of EfficientNet, and of the networks of its blocks.

Torchvision and timm count the convolutions of a block, so their names depend on its kind. Torchvision has four
namings; the activation tells which of its networks a config is of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from classy_vision.layers.activation import ActivationType
from classy_vision.weights.key_map import REVERSE_CHANNELS, Row, Transform
from classy_vision.weights.layout import CLASSIFIER, HEAD, Layout, Layouts, nest_rows, transform_row


class Kind(NamedTuple):
    """What the keys of a block depend on.

    Attributes:
        block: as in ``BlockParams``.
        squeeze: whether it has squeeze-and-excitation.
        groups: of the expansion and the projection.
    """

    block: str
    squeeze: bool = False
    groups: tuple[int, int] = (1, 1)


Kinds = Sequence[Sequence[Kind]]
"""By stage and block."""


def _join(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _halves(tensor: Tensor) -> tuple[Tensor, ...]:
    return tensor.chunk(2)


def _flatten(kernel: Tensor) -> Tensor:
    return kernel.flatten(1)


def _to_kernel(weight: Tensor) -> Tensor:
    return weight[:, :, None, None]


JOIN_GROUPS = Transform(_join, _halves, "two convolutions joined to one with groups")
POINTWISE = Transform(_flatten, _to_kernel, "1x1 convolution to linear layer")
HIDDEN = f"{HEAD}hidden"

# -- layouts in which names depend on the kinds of blocks

_SE = {"se.conv_reduce": "se.excitation.0", "se.conv_expand": "se.excitation.2"}
_TIMM_PARTS: Mapping[str, dict[str, str]] = {
    "mbconv": {
        "conv_pw": "expand.conv",
        "bn1": "expand.norm",
        "conv_dw": "depthwise.conv",
        "bn2": "depthwise.norm",
        **_SE,
        "conv_pwl": "project.conv",
        "bn3": "project.norm",
    },
    "separable": {
        "conv_dw": "depthwise.conv",
        "bn1": "depthwise.norm",
        **_SE,
        "conv_pw": "project.conv",
        "bn2": "project.norm",
    },
    "fused": {
        "conv_exp": "expand.conv",
        "bn1": "expand.norm",
        **_SE,
        "conv_pwl": "project.conv",
        "bn2": "project.norm",
    },
    "conv": {"conv": "conv", "bn1": "norm"},
    "universal": {
        "dw_start.conv": "before.conv",
        "dw_start.bn": "before.norm",
        "pw_exp.conv": "expand.conv",
        "pw_exp.bn": "expand.norm",
        "dw_mid.conv": "depthwise.conv",
        "dw_mid.bn": "depthwise.norm",
        **_SE,
        "pw_proj.conv": "project.conv",
        "pw_proj.bn": "project.norm",
        "layer_scale": "scale",
    },
    "attention": {
        "norm": "norm",
        "attn.query.proj": "attention.query",
        "attn.key.down_conv": "attention.key.down.conv",
        "attn.key.norm": "attention.key.down.norm",
        "attn.key.proj": "attention.key.project",
        "attn.value.down_conv": "attention.value.down.conv",
        "attn.value.norm": "attention.value.down.norm",
        "attn.value.proj": "attention.value.project",
        "attn.output.proj": "attention.project",
        "layer_scale": "scale",
    },
}


def _runs(kinds: Kinds) -> Iterator[tuple[int, str, Kind]]:
    """Stage, index and kind of every block; a stage of one kind has one entry, with a placeholder."""
    for s, stage in enumerate(kinds):
        if len(set(stage)) == 1:
            yield s, "{i}", stage[0]
        else:
            yield from ((s, str(i), kind) for i, kind in enumerate(stage))


def _timm(config: Any) -> list[Row]:
    rows: list[Row] = [("conv_stem", "stem.conv"), ("bn1", "stem.norm")]
    for s, i, kind in _runs(config.kinds):
        theirs, ours = f"blocks.{s}.{i}", f"blocks.block{s}-{i}"
        for groups, a, b in zip(kind.groups, ("conv_pw", "conv_pwl"), ("expand.conv", "project.conv")):
            if groups == 2:
                rows.append(((f"{theirs}.{a}.0", f"{theirs}.{a}.1"), f"{ours}.{b}", JOIN_GROUPS))
        rows += nest_rows(theirs, ours, _TIMM_PARTS[kind.block])
    return [*rows, *(_TIMM_HIDDEN if config.hidden else _TIMM_END), ("classifier", CLASSIFIER)]


_TIMM_END: list[Row] = [("conv_head", "tail.conv"), ("bn2", "tail.norm")]
_TIMM_HIDDEN: list[Row] = [
    ("conv_head.weight", f"{HIDDEN}.weight", POINTWISE),
    ("conv_head", HIDDEN),
    ("norm_head", f"{HEAD}norm"),
]


def _torchvision(config: Any) -> list[Row]:
    return TORCHVISION.get(ActivationType(config.activation), _efficientnet)(config.kinds)


def _parts(kind: Kind) -> list[str]:
    """The parts of a block in their order."""
    if kind.block == "conv":
        return [""]
    se = ["se"] if kind.squeeze else []
    before = {"mbconv": ["expand", "depthwise"], "separable": ["depthwise"], "fused": ["expand"]}
    return [*before.get(kind.block, []), *se, "project"]


def _numbered(theirs: str, ours: str, kind: Kind) -> Iterator[Row]:
    """Rows that count the parts, a convolution's ``.0`` and ``.1`` being convolution and norm."""
    for n, part in enumerate(_parts(kind)):
        if part == "se":
            yield from nest_rows(f"{theirs}.{n}", f"{ours}.se", {"fc1": "excitation.0", "fc2": "excitation.2"})
        else:
            place = f"{ours}.{part}" if part else ours
            yield from nest_rows(f"{theirs}.{n}", place, {"0": "conv", "1": "norm"})


def _ends(kinds: int, first: str = "features.0") -> tuple[list[Row], list[Row]]:
    """Rows of the stem, and of the convolution at the end, which is the last of so many."""
    stem: list[Row] = [(f"{first}.0", "stem.conv"), (f"{first}.1", "stem.norm")]
    tail: list[Row] = [(f"features.{kinds}.0", "tail.conv"), (f"features.{kinds}.1", "tail.norm")]
    return stem, tail


def _efficientnet(kinds: Kinds) -> list[Row]:
    stem, tail = _ends(len(kinds) + 1)
    blocks = (
        _numbered(f"features.{s + 1}.{i}.block", f"blocks.block{s}-{i}", kind) for s, i, kind in _runs(kinds)
    )
    return [*stem, *chain.from_iterable(blocks), *tail, ("classifier.1", CLASSIFIER)]


def _flat(kinds: Kinds) -> list[tuple[str, Kind]]:
    return [(f"blocks.block{s}-{i}", kind) for s, stage in enumerate(kinds) for i, kind in enumerate(stage)]


def _mobilenet_v3(kinds: Kinds) -> list[Row]:
    stem, _ = _ends(0)
    rows = list(stem)
    for n, (ours, kind) in enumerate(_flat(kinds), 1):
        if kind.block == "conv":
            rows += nest_rows(f"features.{n}", ours, {"0": "conv", "1": "norm"})
        else:
            rows += _numbered(f"features.{n}.block", ours, kind)
    return [*rows, ("classifier.0", HIDDEN), ("classifier.3", CLASSIFIER)]


def _mobilenet_v2(kinds: Kinds) -> list[Row]:
    flat = _flat(kinds)
    stem, tail = _ends(len(flat) + 1)
    rows = list(stem)
    for n, (ours, kind) in enumerate(flat, 1):
        last = len(_parts(kind)) - 1
        rows += [row for row in _numbered(f"features.{n}.conv", ours, kind) if ".project." not in row[1]]
        rows += nest_rows(
            f"features.{n}.conv", ours, {f"{last}": "project.conv", f"{last + 1}": "project.norm"}
        )
    return [*rows, *tail, ("classifier.1", CLASSIFIER)]


_MNASNET = {"0": "expand.conv", "1": "expand.norm", "3": "depthwise.conv", "4": "depthwise.norm"}


def _mnasnet(kinds: Kinds) -> list[Row]:
    """Its stem and the one block of its first stage are not nested."""
    rows: list[Row] = [("layers.0", "stem.conv"), ("layers.1", "stem.norm")]
    first = {"3": "depthwise.conv", "4": "depthwise.norm", "6": "project.conv", "7": "project.norm"}
    rows += nest_rows("layers", "blocks.block0-0", first)
    for s in range(1, len(kinds)):
        parts = {**_MNASNET, "6": "project.conv", "7": "project.norm"}
        rows += nest_rows(f"layers.{s + 7}.{{i}}.layers", f"blocks.block{s}-{{i}}", parts)
    end = len(kinds) + 7
    rows += [(f"layers.{end}", "tail.conv"), (f"layers.{end + 1}", "tail.norm")]
    return [*rows, ("classifier.1", CLASSIFIER)]


TORCHVISION = {
    ActivationType.RELU6: _mobilenet_v2,
    ActivationType.HARDSWISH: _mobilenet_v3,
    ActivationType.RELU: _mnasnet,
}
"""Its namings by activation, but for that of EfficientNet."""

# -- layouts in which they do not

_BLOCK, _NTH = "blocks.block{s}-{i}", "blocks.{n:block}"
_OURS = (
    ("expand.conv", "expand.norm"),
    ("depthwise.conv", "depthwise.norm"),
    ("se.excitation.0", "se.excitation.2"),
    ("project.conv", "project.norm"),
)


def _pairs(*theirs: tuple[str, str]) -> dict[str, str]:
    """The parts of a block, two names of theirs for each."""
    return {a: b for names, ours in zip(theirs, _OURS) for a, b in zip(names, ours)}


_CLASSY_VISION: list[Row] = [
    ("conv_stem", "stem.conv"),
    ("bn0", "stem.norm"),
    *nest_rows(
        _BLOCK,
        _BLOCK,
        _pairs(
            ("expand_conv", "bn0"),
            ("depthwise_conv", "bn1"),
            ("se_reduce", "se_expand"),
            ("project_conv", "bn2"),
        ),
    ),
    # What the original did not have; under other names than ours, by which a file is known.
    *nest_rows(_BLOCK, _BLOCK, {f"other.{p}": p for p in ("before", "conv", "norm", "attention", "scale")}),
    ("conv_head", "tail.conv"),
    ("bn1", "tail.norm"),
]
_LUKEMELAS: list[Row] = [
    ("_conv_stem", "stem.conv"),
    ("_bn0", "stem.norm"),
    *nest_rows(
        "_blocks.{n}",
        _NTH,
        _pairs(
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
        _pairs(
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
        _pairs(
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
    "torchvision": Layout(_torchvision),
    "timm": Layout(_timm),
    "lukemelas": Layout(_LUKEMELAS),
    "pycls": Layout(transform_row(_PYCLS, "stem.conv.weight", REVERSE_CHANNELS)),
    "transformers": Layout(_TRANSFORMERS),
}
