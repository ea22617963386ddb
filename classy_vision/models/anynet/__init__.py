"""AnyNet: stages of equal blocks (Radosavovic et al., "Designing Network Design Spaces", 2020)."""

from typing import TYPE_CHECKING

from classy_vision.layers.activation import ActivationType
from classy_vision.models.anynet.model import (
    BLOCKS,
    STEMS,
    AnyNet,
    AnyNetOptions,
    AnyNetParams,
    BlockType,
    ResBlock,
    StemType,
    res_basic_block,
    res_bottleneck_block,
    res_bottleneck_linear_block,
    vanilla_block,
)
from classy_vision.removed import explain_removed

__all__ = [
    "BLOCKS",
    "STEMS",
    "ActivationType",
    "AnyNet",
    "AnyNetOptions",
    "AnyNetParams",
    "BlockType",
    "ResBlock",
    "StemType",
    "res_basic_block",
    "res_bottleneck_block",
    "res_bottleneck_linear_block",
    "vanilla_block",
]

if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__)
