"""The stages of EfficientNets and of the mobile networks before and after them, by name, and their presets.

A network is a list of stages, a stage a list of rows, a row one or more blocks of one kind. Channels are those
at a width of 1. The figures are those of the papers, and of their reference code where the two differ:

- MobileNets: Howard et al. 2017 (V1), Sandler et al. 2018 (V2), Howard et al. 2019 (V3), Qin et al. 2024 (V4).
- MnasNet: Tan et al. 2019. Single-Path NAS: Stamoulis et al. 2019. MixNet: Tan & Le 2019.
- FBNet: Wu et al. 2019 (C), Dai et al. 2021 (V3). TinyNet: Han et al. 2020. LCNet: Cui et al. 2021.
- EfficientNet: Tan & Le 2019; EdgeTPU: Gupta & Tan 2019; Lite: Liu 2020; V2: Tan & Le 2021. Its "rw" variants
  are Ross Wightman's, drawn from the paper's figures before its code was public.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

Row = dict[str, Any]
Stages = tuple[tuple[Row, ...], ...]

# -- rows: channels, kernel, stride, expansion and repeats, in this order


def conv(channels: int, k: int, s: int = 1, n: int = 1, **more: Any) -> Row:
    """Convolutions, by themselves."""
    return {"block": "conv", "channels": channels, "kernel": k, "stride": s, "repeats": n, **more}


def sep(channels: int, k: int = 3, s: int = 1, n: int = 1, **more: Any) -> Row:
    """Depthwise separable convolutions."""
    return {"block": "separable", "channels": channels, "kernel": k, "stride": s, "repeats": n, **more}


def mb(channels: int, k: int | tuple[int, ...], s: int, e: float, n: int = 1, **more: Any) -> Row:
    """Inverted bottlenecks."""
    row = {"block": "mbconv", "channels": channels, "kernel": k, "stride": s, "expansion": e, "repeats": n}
    return {**row, **more}


def fused(channels: int, k: int, s: int, e: float, n: int = 1, **more: Any) -> Row:
    """Inverted bottlenecks whose expansion and depthwise convolution are one."""
    return {**mb(channels, k, s, e, n, **more), "block": "fused"}


def uib(channels: int, before: int, k: int, s: int, e: float, n: int = 1) -> Row:
    """Universal inverted bottlenecks: the kernel before the expansion, then the one after it."""
    return {**mb(channels, k, s, e, n), "block": "universal", "kernel_before": before}


def attention(channels: int, heads: int, head_width: int, key_stride: int = 1) -> Row:
    """Attention with one key and value for all heads."""
    row = {"block": "attention", "channels": channels, "heads": heads, "head_width": head_width}
    return {**row, "key_stride": key_stride}


SE: Row = {"squeeze": 0.25}
RELU: Row = {"activation": "relu"}
ACTS: Row = {"project_activation": True, "shortcut": False}


def _repeat(stages: Stages, *repeats: int) -> Stages:
    """The same rows with other repeats, counted through all stages."""
    counts = iter(repeats)
    return tuple(tuple({**row, "repeats": next(counts)} for row in stage) for stage in stages)


def _with(stages: Stages, **changes: Any) -> Stages:
    """The same rows with other values where they have any."""
    return tuple(
        tuple({**r, **{k: v for k, v in changes.items() if k in r}} for r in stage) for stage in stages
    )


def _minimal(stages: Stages) -> Stages:
    """Without squeeze-and-excitation, and with kernels of 3."""
    return (*_with(stages[:-1], kernel=3, squeeze=0.0), stages[-1])


def _alone(*rows: Row) -> Stages:
    """Stages of one row each."""
    return tuple((row,) for row in rows)


# -- EfficientNet

_B = _alone(
    sep(16, **SE),
    mb(24, 3, 2, 6, 2, **SE),
    mb(40, 5, 2, 6, 2, **SE),
    mb(80, 3, 2, 6, 3, **SE),
    mb(112, 5, 1, 6, 3, **SE),
    mb(192, 5, 2, 6, 4, **SE),
    mb(320, 3, 1, 6, 1, **SE),
)
_LITE = _with(_B, squeeze=0.0)
# The first expands 24 channels, not those of the stem, four times.
_EDGE = (
    (fused(24, 3, 1, 3, shortcut=False),),
    (fused(32, 3, 2, 8, 2),),
    (fused(48, 3, 2, 8, 4),),
    (mb(96, 5, 2, 8, 5),),
    (mb(144, 5, 1, 8, 4),),
    (mb(192, 5, 2, 8, 2),),
)


def _edge(first: float, *repeats: int) -> Stages:
    start = (fused(24, 3, 1, first, shortcut=False), fused(24, 3, 1, 4, shortcut=False))
    return (start, *_repeat(_EDGE[1:], *repeats))


_V2_B = _alone(
    conv(16, 3),
    fused(32, 3, 2, 4, 2),
    fused(48, 3, 2, 4, 2),
    mb(96, 3, 2, 4, 3, **SE),
    mb(112, 3, 1, 6, 5, **SE),
    mb(192, 3, 2, 6, 8, **SE),
)
_V2_S = _alone(
    conv(24, 3, 1, 2),
    fused(48, 3, 2, 4, 4),
    fused(64, 3, 2, 4, 4),
    mb(128, 3, 2, 4, 6, **SE),
    mb(160, 3, 1, 6, 9, **SE),
    mb(256, 3, 2, 6, 15, **SE),
)
_V2_RW_S = (
    (fused(24, 3, 1, 1, 2),),
    *_V2_S[1:5],
    (mb(272, 3, 2, 6, 15, **SE),),
)

# -- mobile networks

_MOBILENET_V1 = _alone(
    *(
        sep(channels, 3, s, n, **ACTS)
        for channels, s, n in ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 2, 6), (1024, 2, 2))
    )
)
_MOBILENET_V2 = _alone(
    sep(16),
    mb(24, 3, 2, 6, 2),
    mb(32, 3, 2, 6, 3),
    mb(64, 3, 2, 6, 4),
    mb(96, 3, 1, 6, 3),
    mb(160, 3, 2, 6, 3),
    mb(320, 3, 1, 6, 1),
)
_MOBILENET_V3_LARGE = (
    (sep(16, **RELU),),
    (mb(24, 3, 2, 4, **RELU), mb(24, 3, 1, 3, **RELU)),
    (mb(40, 5, 2, 3, 3, **SE, **RELU),),
    (mb(80, 3, 2, 6), mb(80, 3, 1, 2.5), mb(80, 3, 1, 2.3, 2)),
    (mb(112, 3, 1, 6, 2, **SE),),
    (mb(160, 5, 2, 6, 3, **SE),),
    (conv(960, 1, shortcut=False),),
)
_MOBILENET_V3_SMALL = (
    (sep(16, 3, 2, **SE, **RELU),),
    (mb(24, 3, 2, 4.5, **RELU), mb(24, 3, 1, 3.67, **RELU)),
    (mb(40, 5, 2, 4, **SE), mb(40, 5, 1, 6, 2, **SE)),
    (mb(48, 5, 1, 3, 2, **SE),),
    (mb(96, 5, 2, 6, 3, **SE),),
    (conv(576, 1, shortcut=False),),
)
_MNASNET_A1 = _alone(
    sep(16),
    mb(24, 3, 2, 6, 2),
    mb(40, 5, 2, 3, 3, **SE),
    mb(80, 3, 2, 6, 4),
    mb(112, 3, 1, 6, 2, **SE),
    mb(160, 5, 2, 6, 3, **SE),
    mb(320, 3, 1, 6, 1),
)
_MNASNET_B1 = _alone(
    sep(16, shortcut=False),
    mb(24, 3, 2, 3, 3),
    mb(40, 5, 2, 3, 3),
    mb(80, 5, 2, 6, 3),
    mb(96, 3, 1, 6, 2),
    mb(192, 5, 2, 6, 4),
    mb(320, 3, 1, 6, 1),
)
_MNASNET_SMALL = _alone(
    sep(8),
    mb(16, 3, 2, 3),
    mb(16, 3, 2, 6, 2),
    mb(32, 5, 2, 6, 4, **SE),
    mb(32, 3, 1, 6, 3, **SE),
    mb(88, 5, 2, 6, 3, **SE),
    mb(144, 3, 1, 6, 1),
)
_SPNASNET = (
    (sep(16, shortcut=False),),
    (mb(24, 3, 2, 3, 3),),
    (mb(40, 5, 2, 6), mb(40, 3, 1, 3, 3)),
    (mb(80, 5, 2, 6), mb(80, 3, 1, 3, 3)),
    (mb(96, 5, 1, 6), mb(96, 5, 1, 3, 3)),
    (mb(192, 5, 2, 6, 4),),
    (mb(320, 3, 1, 6),),
)
_FBNET_C = (
    (mb(16, 3, 1, 1),),
    (mb(24, 3, 2, 6), mb(24, 3, 1, 1, 2)),
    (mb(32, 5, 2, 6), mb(32, 5, 1, 3), mb(32, 5, 1, 6), mb(32, 3, 1, 6)),
    (mb(64, 5, 2, 6), mb(64, 5, 1, 3), mb(64, 5, 1, 6, 2)),
    (mb(112, 5, 1, 6, 3), mb(112, 5, 1, 3)),
    (mb(184, 5, 2, 6, 4),),
    (mb(352, 3, 1, 6),),
)
_FBNET_V3_B = (
    (sep(16, n=2),),
    (mb(24, 5, 2, 4), mb(24, 5, 1, 2, 3)),
    (mb(40, 5, 2, 5, **SE), mb(40, 5, 1, 3, 4, **SE)),
    (mb(72, 5, 2, 5), mb(72, 3, 1, 3, 4)),
    (mb(120, 3, 1, 5, **SE), mb(120, 5, 1, 3, 5, **SE)),
    (mb(184, 3, 2, 6, **SE), mb(184, 5, 1, 4, 5, **SE), mb(224, 5, 1, 6, **SE)),
    (conv(1344, 1, shortcut=False),),
)
_FBNET_V3_D = (
    (sep(16, n=2),),
    (mb(24, 3, 2, 5), mb(24, 3, 1, 2, 5)),
    (mb(40, 5, 2, 4, **SE), mb(40, 3, 1, 3, 4, **SE)),
    (mb(72, 3, 2, 5), mb(72, 3, 1, 3, 4)),
    (mb(128, 3, 1, 5, **SE), mb(128, 5, 1, 3, 6, **SE)),
    (mb(208, 3, 2, 6, **SE), mb(208, 5, 1, 5, 5, **SE), mb(240, 5, 1, 6, **SE)),
    (conv(1440, 1, shortcut=False),),
)
_FBNET_V3_G = (
    (sep(24, n=3),),
    (mb(40, 5, 2, 4), mb(40, 5, 1, 2, 4)),
    (mb(56, 5, 2, 4, **SE), mb(56, 5, 1, 3, 4, **SE)),
    (mb(104, 5, 2, 5), mb(104, 3, 1, 3, 4)),
    (mb(160, 3, 1, 5, squeeze=0.3), mb(160, 5, 1, 3, 8, **SE)),  # 32 channels of 104
    (mb(264, 3, 2, 6, **SE), mb(264, 5, 1, 5, 6, **SE), mb(288, 5, 1, 6, 2, **SE)),
    (conv(1728, 1, shortcut=False),),
)
_LCNET = (
    (sep(32, 3, 1, **ACTS),),
    (sep(64, 3, 2, 2, **ACTS),),
    (sep(128, 3, 2, 2, **ACTS),),
    (sep(256, 3, 2, **ACTS), sep(256, 5, 1, **ACTS)),
    (sep(256, 5, 1, 4, **ACTS),),
    (sep(512, 5, 2, 2, **ACTS, **SE),),
)

# -- MixNet: kernels of several sizes; a pair of groups in the 1x1 convolutions of the expansion, the projection

_BOTH: Row = {"groups": (2, 2)}
_OUT: Row = {"groups": (1, 2)}
_HALF: Row = {"squeeze": 0.5, "activation": "silu"}
_QUARTER: Row = {"squeeze": 0.25, "activation": "silu"}
_MIXNET_S = (
    (sep(16),),
    (mb(24, 3, 2, 6, **_BOTH), mb(24, 3, 1, 3, **_BOTH)),
    (mb(40, (3, 5, 7), 2, 6, **_HALF), mb(40, (3, 5), 1, 6, 3, **_BOTH, **_HALF)),
    (mb(80, (3, 5, 7), 2, 6, **_OUT, **_QUARTER), mb(80, (3, 5), 1, 6, 2, **_OUT, **_QUARTER)),
    (mb(120, (3, 5, 7), 1, 6, **_BOTH, **_HALF), mb(120, (3, 5, 7, 9), 1, 3, 2, **_BOTH, **_HALF)),
    (mb(200, (3, 5, 7, 9, 11), 2, 6, **_HALF), mb(200, (3, 5, 7, 9), 1, 6, 2, **_OUT, **_HALF)),
)
_MIXNET_M = (
    (sep(24),),
    (mb(32, (3, 5, 7), 2, 6, **_BOTH), mb(32, 3, 1, 3, **_BOTH)),
    (mb(40, (3, 5, 7, 9), 2, 6, **_HALF), mb(40, (3, 5), 1, 6, 3, **_BOTH, **_HALF)),
    (mb(80, (3, 5, 7), 2, 6, **_QUARTER), mb(80, (3, 5, 7, 9), 1, 6, 3, **_BOTH, **_QUARTER)),
    (mb(120, 3, 1, 6, **_HALF), mb(120, (3, 5, 7, 9), 1, 3, 3, **_BOTH, **_HALF)),
    (mb(200, (3, 5, 7, 9), 2, 6, **_HALF), mb(200, (3, 5, 7, 9), 1, 6, 3, **_OUT, **_HALF)),
)

# -- MobileNetV4

_V4_LAST = (conv(960, 1, shortcut=False),)
_V4_SMALL = (
    (conv(32, 3, 2), conv(32, 1, shortcut=False)),
    (conv(96, 3, 2), conv(64, 1, shortcut=False)),
    (uib(96, 5, 5, 2, 3), uib(96, 0, 3, 1, 2, 4), uib(96, 3, 0, 1, 4)),
    (
        uib(128, 3, 3, 2, 6),
        uib(128, 5, 5, 1, 4),
        uib(128, 0, 5, 1, 4),
        uib(128, 0, 5, 1, 3),
        uib(128, 0, 3, 1, 4, 2),
    ),
    _V4_LAST,
)
_V4_MEDIUM = (
    (fused(48, 3, 2, 4),),
    (uib(80, 3, 5, 2, 4), uib(80, 3, 3, 1, 2)),
    (
        uib(160, 3, 5, 2, 6),
        uib(160, 3, 3, 1, 4, 2),
        uib(160, 3, 5, 1, 4),
        uib(160, 3, 3, 1, 4),
        uib(160, 3, 0, 1, 4),
        uib(160, 0, 0, 1, 2),
        uib(160, 3, 0, 1, 4),
    ),
    (
        uib(256, 5, 5, 2, 6),
        uib(256, 5, 5, 1, 4),
        uib(256, 3, 5, 1, 4, 2),
        uib(256, 0, 0, 1, 4),
        uib(256, 3, 0, 1, 4),
        uib(256, 3, 5, 1, 2),
        uib(256, 5, 5, 1, 4),
        uib(256, 0, 0, 1, 4, 2),
        uib(256, 5, 0, 1, 2),
    ),
    _V4_LAST,
)
_V4_LARGE = (
    (fused(48, 3, 2, 4),),
    (uib(96, 3, 5, 2, 4), uib(96, 3, 3, 1, 4)),
    (
        uib(192, 3, 5, 2, 4),
        uib(192, 3, 3, 1, 4, 3),
        uib(192, 3, 5, 1, 4),
        uib(192, 5, 3, 1, 4, 5),
        uib(192, 3, 0, 1, 4),
    ),
    (
        uib(512, 5, 5, 2, 4, 4),
        uib(512, 5, 0, 1, 4),
        uib(512, 5, 3, 1, 4),
        uib(512, 5, 0, 1, 4, 2),
        uib(512, 5, 3, 1, 4),
        uib(512, 5, 5, 1, 4),
        uib(512, 5, 0, 1, 4, 3),
    ),
    _V4_LAST,
)


def _attend(row: Row, *blocks: Row) -> tuple[Row, ...]:
    """Attention before each of the blocks."""
    return tuple(chain.from_iterable((row, block) for block in blocks))


_V4_HYBRID_MEDIUM = (
    *_V4_MEDIUM[:2],
    (
        uib(160, 3, 5, 2, 6),
        uib(160, 0, 0, 1, 2),
        uib(160, 3, 3, 1, 4),
        uib(160, 3, 5, 1, 4),
        *_attend(
            attention(160, 4, 64, 2),
            uib(160, 3, 3, 1, 4),
            uib(160, 3, 0, 1, 4),
            uib(160, 3, 3, 1, 4),
            uib(160, 3, 0, 1, 4),
        ),
    ),
    (
        uib(256, 5, 5, 2, 6),
        uib(256, 5, 5, 1, 4),
        uib(256, 3, 5, 1, 4, 2),
        uib(256, 0, 0, 1, 2),
        uib(256, 3, 5, 1, 2),
        uib(256, 0, 0, 1, 2),
        uib(256, 0, 0, 1, 4),
        *_attend(
            attention(256, 4, 64),
            uib(256, 3, 0, 1, 4),
            uib(256, 5, 5, 1, 4),
            uib(256, 5, 0, 1, 4),
            uib(256, 5, 0, 1, 4),
        ),
    ),
    _V4_LAST,
)
_V4_HYBRID_LARGE = (
    *_V4_LARGE[:2],
    (
        uib(192, 3, 5, 2, 4),
        uib(192, 3, 3, 1, 4, 3),
        uib(192, 3, 5, 1, 4),
        uib(192, 5, 3, 1, 4, 2),
        *_attend(
            attention(192, 8, 48, 2),
            uib(192, 5, 3, 1, 4),
            uib(192, 5, 3, 1, 4),
            uib(192, 5, 3, 1, 4),
            uib(192, 3, 0, 1, 4),
        ),
    ),
    (
        *_V4_LARGE[3][:-1],
        *_attend(attention(512, 8, 64), *[uib(512, 5, 0, 1, 4)] * 4),
    ),
    _V4_LAST,
)

NETWORKS: dict[str, Stages] = {
    "efficientnet": _B,
    "efficientnet_edge": _EDGE,
    "efficientnet_em": _edge(3, 3, 5, 6, 5, 3),
    "efficientnet_el": _edge(3.2, 3, 6, 7, 6, 3),
    "efficientnet_lite0": _LITE,
    "efficientnet_lite1": _repeat(_LITE, 1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite2": _repeat(_LITE, 1, 3, 3, 4, 4, 5, 1),
    "efficientnet_lite3": _repeat(_LITE, 1, 3, 3, 5, 5, 6, 1),
    "efficientnet_lite4": _repeat(_LITE, 1, 4, 4, 6, 6, 8, 1),
    "efficientnet_v2_b": _V2_B,
    "efficientnet_v2_b3": _alone(
        conv(16, 3, 1, 2),
        fused(40, 3, 2, 4, 3),
        fused(56, 3, 2, 4, 3),
        mb(112, 3, 2, 4, 5, **SE),
        mb(136, 3, 1, 6, 7, **SE),
        mb(232, 3, 2, 6, 12, **SE),
    ),
    "efficientnet_v2_s": _V2_S,
    "efficientnet_v2_m": _alone(
        conv(24, 3, 1, 3),
        fused(48, 3, 2, 4, 5),
        fused(80, 3, 2, 4, 5),
        mb(160, 3, 2, 4, 7, **SE),
        mb(176, 3, 1, 6, 14, **SE),
        mb(304, 3, 2, 6, 18, **SE),
        mb(512, 3, 1, 6, 5, **SE),
    ),
    "efficientnet_v2_l": _alone(
        conv(32, 3, 1, 4),
        fused(64, 3, 2, 4, 7),
        fused(96, 3, 2, 4, 7),
        mb(192, 3, 2, 4, 10, **SE),
        mb(224, 3, 1, 6, 19, **SE),
        mb(384, 3, 2, 6, 25, **SE),
        mb(640, 3, 1, 6, 7, **SE),
    ),
    "efficientnet_v2_xl": _alone(
        conv(32, 3, 1, 4),
        fused(64, 3, 2, 4, 8),
        fused(96, 3, 2, 4, 8),
        mb(192, 3, 2, 4, 16, **SE),
        mb(256, 3, 1, 6, 24, **SE),
        mb(512, 3, 2, 6, 32, **SE),
        mb(640, 3, 1, 6, 8, **SE),
    ),
    "efficientnet_v2_rw_s": _V2_RW_S,
    "efficientnet_v2_rw_m": _repeat(_V2_RW_S, 3, 5, 5, 8, 15, 24),
    "mobilenet_v1": _MOBILENET_V1,
    "mobilenet_v2": _MOBILENET_V2,
    "mobilenet_v2_110d": _repeat(_MOBILENET_V2, 1, 3, 4, 5, 4, 4, 1),
    "mobilenet_v2_120d": _repeat(_MOBILENET_V2, 1, 3, 5, 6, 5, 5, 1),
    "mobilenet_v3_large": _MOBILENET_V3_LARGE,
    "mobilenet_v3_large_150d": _repeat(_MOBILENET_V3_LARGE, 2, 1, 2, 4, 1, 2, 2, 3, 4, 2),
    "mobilenet_v3_large_minimal": _minimal(_MOBILENET_V3_LARGE),
    "mobilenet_v3_rw": ((sep(16, **RELU, shortcut=False),), *_MOBILENET_V3_LARGE[1:]),
    "mobilenet_v3_small": _MOBILENET_V3_SMALL,
    "mobilenet_v3_small_minimal": _minimal(_MOBILENET_V3_SMALL),
    "mobilenet_v4_conv_small": _V4_SMALL,
    "mobilenet_v4_conv_medium": _V4_MEDIUM,
    "mobilenet_v4_conv_large": _V4_LARGE,
    "mobilenet_v4_hybrid_medium": _V4_HYBRID_MEDIUM,
    "mobilenet_v4_hybrid_large": _V4_HYBRID_LARGE,
    "mnasnet_a1": _MNASNET_A1,
    "mnasnet_b1": _MNASNET_B1,
    "mnasnet_small": _MNASNET_SMALL,
    "spnasnet": _SPNASNET,
    "fbnet_c": _FBNET_C,
    "fbnet_v3_b": _FBNET_V3_B,
    "fbnet_v3_d": _FBNET_V3_D,
    "fbnet_v3_g": _FBNET_V3_G,
    "lcnet": _LCNET,
    "mixnet_s": _MIXNET_S,
    "mixnet_m": _MIXNET_M,
    "mixnet_xl": _repeat(_MIXNET_M, 1, 1, 1, 1, 4, 1, 4, 1, 4, 1, 4),
    "tinynet_a": _repeat(_B, 1, 2, 2, 4, 4, 5, 1),
    "tinynet_b": _repeat(_B, 1, 2, 2, 3, 3, 4, 1),
    "tinynet_c": _repeat(_B, 1, 2, 2, 3, 3, 3, 1),
    "tinynet_d": _repeat(_B, 1, 1, 1, 2, 2, 3, 1),
    "tinynet_e": _repeat(_B, 1, 1, 1, 2, 2, 2, 1),
}

# -- presets

# Table 1 of the paper, and its repository: width, depth, resolution, dropout.
SCALES: dict[str, tuple[float, float, int, float]] = {
    "B0": (1.0, 1.0, 224, 0.2),
    "B1": (1.0, 1.1, 240, 0.2),
    "B2": (1.1, 1.2, 260, 0.3),
    "B3": (1.2, 1.4, 300, 0.3),
    "B4": (1.4, 1.8, 380, 0.4),
    "B5": (1.6, 2.2, 456, 0.4),
    "B6": (1.8, 2.6, 528, 0.5),
    "B7": (2.0, 3.1, 600, 0.5),
    "B8": (2.2, 3.6, 672, 0.5),
}
_PLAIN = {"bn_epsilon": 1e-5, "bn_momentum": 0.1, "stochastic_depth": 0.0}
"""Norms as they are by default in torch, and no stochastic depth."""
_OPTIONS: dict[str, dict[str, Any]] = {
    "efficientnet": {},
    "lite": {"stem_width": 32, "head_width": 1280, "activation": "relu6"},
    "edge": {"activation": "relu"},
    "v1": {**_PLAIN, "activation": "relu6", "head_width": 0},
    "v2": {**_PLAIN, "activation": "relu6"},
    "v3": {
        "stochastic_depth": 0.0,
        "activation": "hardswish",
        "head_width": 0,
        "squeeze": {"of": "expanded", "divisor": 8, "activation": "relu", "gate": "hardsigmoid"},
    },
    "v4": {
        **_PLAIN,
        "activation": "relu",
        "head_width": 0,
        "hidden": {"width": 1280, "bias": False, "norm": True},
    },
    "relu": {**_PLAIN, "activation": "relu"},
    "tiny": {**_PLAIN, "stem_width": 32, "head_width": 1280},
}
_HYBRID = {"layer_scale": 1e-5}
_AVG = {"anti_alias": "avg"}


def _hidden(width: int, **more: Any) -> dict[str, Any]:
    return {"hidden": {"width": width, **more}}


_LC = {
    "squeeze": {"of": "expanded", "activation": "relu", "gate": "hardsigmoid"},
    **_hidden(1280),
    **_PLAIN,
}
_FB = {"squeeze": {"divisor": 8, "gate": "hardsigmoid"}, **_hidden(1984, bias=False), **_PLAIN}
_RW = {"squeeze": {"of": "expanded", "gate": "hardsigmoid"}, **_hidden(1280, bias=False)}

# preset: stages, options, width, depth, resolution, dropout, and what differs
_ROWS: dict[str, tuple[str, str, float, float, int, float, dict[str, Any]]] = {
    "efficientnet_l2": ("efficientnet", "efficientnet", 4.3, 5.3, 800, 0.5, {}),
    "efficientnet_lite0": ("efficientnet_lite0", "lite", 1.0, 1.0, 224, 0.2, {}),
    "efficientnet_lite1": ("efficientnet_lite1", "lite", 1.0, 1.0, 240, 0.2, {}),
    "efficientnet_lite2": ("efficientnet_lite2", "lite", 1.1, 1.0, 260, 0.3, {}),
    "efficientnet_lite3": ("efficientnet_lite3", "lite", 1.2, 1.0, 280, 0.3, {}),
    "efficientnet_lite4": ("efficientnet_lite4", "lite", 1.4, 1.0, 300, 0.3, {}),
    "efficientnet_es": ("efficientnet_edge", "edge", 1.0, 1.0, 224, 0.2, {}),
    "efficientnet_em": ("efficientnet_em", "edge", 1.0, 1.0, 240, 0.2, {}),
    "efficientnet_el": ("efficientnet_el", "edge", 1.2, 1.0, 300, 0.3, {}),
    "efficientnet_v2_b0": ("efficientnet_v2_b", "efficientnet", 1.0, 1.0, 224, 0.2, {}),
    "efficientnet_v2_b1": ("efficientnet_v2_b", "efficientnet", 1.0, 1.1, 240, 0.2, {}),
    "efficientnet_v2_b2": ("efficientnet_v2_b", "efficientnet", 1.1, 1.2, 260, 0.3, {}),
    "efficientnet_v2_b3": (
        *("efficientnet_v2_b3", "efficientnet", 1.0, 1.0, 300, 0.3),
        {"stem_width": 40, "head_width": 1536},
    ),
    "efficientnet_v2_s": ("efficientnet_v2_s", "efficientnet", 1.0, 1.0, 384, 0.2, {"stem_width": 24}),
    "efficientnet_v2_m": ("efficientnet_v2_m", "efficientnet", 1.0, 1.0, 480, 0.3, {"stem_width": 24}),
    "efficientnet_v2_l": ("efficientnet_v2_l", "efficientnet", 1.0, 1.0, 480, 0.4, {"stem_width": 32}),
    "efficientnet_v2_xl": ("efficientnet_v2_xl", "efficientnet", 1.0, 1.0, 512, 0.4, {"stem_width": 32}),
    "efficientnet_v2_rw_t": (
        *("efficientnet_v2_s", "efficientnet", 0.8, 0.9, 224, 0.2),
        {"stem_width": 24, "head_width": 1024},
    ),
    "efficientnet_v2_rw_s": (
        *("efficientnet_v2_rw_s", "efficientnet", 1.0, 1.0, 288, 0.2),
        {"stem_width": 24, "head_width": 1792},
    ),
    "efficientnet_v2_rw_m": (
        *("efficientnet_v2_rw_m", "efficientnet", 1.2, 1.0, 320, 0.3),
        {"stem_width": 32, "head_width": 2152},
    ),
    "mobilenet_v1": ("mobilenet_v1", "v1", 1.0, 1.0, 224, 0.2, {}),
    "mobilenet_v1_125": ("mobilenet_v1", "v1", 1.25, 1.0, 224, 0.2, {}),
    "mobilenet_v1_100h": ("mobilenet_v1", "v1", 1.0, 1.0, 224, 0.2, {"head_width": 1024}),
    "mobilenet_v2": ("mobilenet_v2", "v2", 1.0, 1.0, 224, 0.2, {}),
    "mobilenet_v2_050": ("mobilenet_v2", "v2", 0.5, 1.0, 224, 0.2, {"head_width": 1280}),
    "mobilenet_v2_140": ("mobilenet_v2", "v2", 1.4, 1.0, 224, 0.2, {}),
    "mobilenet_v2_110d": (
        *("mobilenet_v2_110d", "v2", 1.1, 1.0, 224, 0.2),
        {"stem_width": 32, "head_width": 1280},
    ),
    "mobilenet_v2_120d": (
        *("mobilenet_v2_120d", "v2", 1.2, 1.0, 224, 0.2),
        {"stem_width": 32, "head_width": 1280},
    ),
    **{
        f"mobilenet_v3_{name}": (
            f"mobilenet_v3_{stages}",
            "v3",
            width,
            1.0,
            224,
            0.2,
            {"stem_width": stem, **more},
        )
        for name, stages, width, stem, more in (
            ("large", "large", 1.0, 16, _hidden(1280)),
            ("large_075", "large", 0.75, 16, _hidden(1280)),
            ("large_150d", "large_150d", 1.5, 24, _hidden(1280)),
            ("large_minimal", "large_minimal", 1.0, 16, {"activation": "relu", **_hidden(1280)}),
            ("small", "small", 1.0, 16, _hidden(1024)),
            ("small_050", "small", 0.5, 16, _hidden(1024)),
            ("small_075", "small", 0.75, 16, _hidden(1024)),
            ("small_minimal", "small_minimal", 1.0, 16, {"activation": "relu", **_hidden(1024)}),
            ("rw", "rw", 1.0, 16, _RW),
        )
    },
    "mobilenet_v4_conv_small": ("mobilenet_v4_conv_small", "v4", 1.0, 1.0, 224, 0.2, {"stem_width": 32}),
    "mobilenet_v4_conv_small_050": ("mobilenet_v4_conv_small", "v4", 0.5, 1.0, 224, 0.2, {"stem_width": 32}),
    "mobilenet_v4_conv_medium": ("mobilenet_v4_conv_medium", "v4", 1.0, 1.0, 256, 0.2, {"stem_width": 32}),
    "mobilenet_v4_conv_large": ("mobilenet_v4_conv_large", "v4", 1.0, 1.0, 384, 0.2, {"stem_width": 24}),
    "mobilenet_v4_conv_aa_large": (
        *("mobilenet_v4_conv_large", "v4", 1.0, 1.0, 384, 0.2),
        {"stem_width": 24, **_AVG},
    ),
    "mobilenet_v4_hybrid_medium": (
        *("mobilenet_v4_hybrid_medium", "v4", 1.0, 1.0, 256, 0.2),
        {"stem_width": 32, **_HYBRID},
    ),
    "mobilenet_v4_hybrid_large": (
        *("mobilenet_v4_hybrid_large", "v4", 1.0, 1.0, 384, 0.2),
        {"stem_width": 24, "activation": "gelu", **_HYBRID},
    ),
    "mnasnet0_5": ("mnasnet_b1", "relu", 0.5, 1.0, 224, 0.2, {"head_width": 1280}),
    "mnasnet0_75": ("mnasnet_b1", "relu", 0.75, 1.0, 224, 0.2, {"head_width": 1280}),
    "mnasnet1_0": ("mnasnet_b1", "relu", 1.0, 1.0, 224, 0.2, {}),
    "mnasnet1_3": ("mnasnet_b1", "relu", 1.3, 1.0, 224, 0.2, {"head_width": 1280}),
    "mnasnet_small": ("mnasnet_small", "relu", 1.0, 1.0, 224, 0.2, {"stem_width": 8}),
    "semnasnet_075": ("mnasnet_a1", "relu", 0.75, 1.0, 224, 0.2, {"head_width": 1280}),
    "semnasnet_100": ("mnasnet_a1", "relu", 1.0, 1.0, 224, 0.2, {}),
    "spnasnet_100": ("spnasnet", "relu", 1.0, 1.0, 224, 0.2, {}),
    "fbnet_c": ("fbnet_c", "relu", 1.0, 1.0, 224, 0.2, {"stem_width": 16, "head_width": 1984}),
    "fbnet_v3_b": ("fbnet_v3_b", "v3", 1.0, 1.0, 224, 0.2, {"stem_width": 16, **_FB}),
    "fbnet_v3_d": ("fbnet_v3_d", "v3", 1.0, 1.0, 224, 0.2, {"stem_width": 24, **_FB}),
    "fbnet_v3_g": ("fbnet_v3_g", "v3", 1.0, 1.0, 240, 0.2, {"stem_width": 32, **_FB}),
    "lcnet_050": ("lcnet", "v3", 0.5, 1.0, 224, 0.2, {"stem_width": 8, **_LC}),
    "lcnet_075": ("lcnet", "v3", 0.75, 1.0, 224, 0.2, {"stem_width": 16, **_LC}),
    "lcnet_100": ("lcnet", "v3", 1.0, 1.0, 224, 0.2, {"stem_width": 16, **_LC}),
    "mixnet_s": ("mixnet_s", "relu", 1.0, 1.0, 224, 0.2, {"stem_width": 16, "head_width": 1536}),
    "mixnet_m": ("mixnet_m", "relu", 1.0, 1.0, 224, 0.25, {"stem_width": 24, "head_width": 1536}),
    "mixnet_l": ("mixnet_m", "relu", 1.3, 1.0, 224, 0.3, {"stem_width": 32, "head_width": 1536}),
    "mixnet_xl": ("mixnet_xl", "relu", 1.6, 1.0, 224, 0.3, {"stem_width": 40, "head_width": 1536}),
    "tinynet_a": ("tinynet_a", "tiny", 1.0, 1.0, 192, 0.2, {}),
    "tinynet_b": ("tinynet_b", "tiny", 0.75, 1.0, 188, 0.2, {}),
    "tinynet_c": ("tinynet_c", "tiny", 0.54, 1.0, 184, 0.2, {}),
    "tinynet_d": ("tinynet_d", "tiny", 0.54, 1.0, 152, 0.2, {}),
    "tinynet_e": ("tinynet_e", "tiny", 0.51, 1.0, 106, 0.2, {}),
}


def _preset(
    stages: str, options: str, width: float, depth: float, resolution: int, dropout: float, more: dict[str, Any]
) -> dict[str, Any]:
    scale = {"width_coefficient": width, "depth_coefficient": depth}
    scale |= {"resolution": resolution, "dropout_rate": dropout}
    named = {} if stages == "efficientnet" else {"stages": stages}
    return {**named, "model_params": scale, **_OPTIONS[options], **more}


PRESETS: dict[str, dict[str, Any]] = {
    **{f"efficientnet_{name.lower()}": {"model_name": name} for name in SCALES},
    **{name: _preset(*row) for name, row in _ROWS.items()},
}
