"""How the configs of each family are found from the tensors of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from classy_vision.identify.shapes import (
    Inferred,
    Shapes,
    anynet,
    clip_probes,
    densenet,
    depths_of_scale,
    efficientnet,
    resnext,
    resnext3d,
    scales,
    vit,
    vit_probes,
)
from classy_vision.models.anynet.model import BlockType

_BN = ("bn_epsilon", "bn_momentum", "stochastic_depth")


def _no_probes(theirs: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    return [{}]


@dataclass(frozen=True)
class Family:
    """How the configs of one family are found.

    Attributes:
        name: the registered one that takes any sizes.
        infer: reads a config from the trunk's shapes.
        depths: blocks per stage of a config.
        unseen: options that shapes do not show.
        probes: configs, as far as rows of layouts read them, to try those with.
        others: families whose presets are of this kind as well.
        variants: options of presets that change shapes, and are not inferred.
    """

    name: str
    infer: Callable[[Shapes], Inferred]
    depths: Callable[[Any], tuple[int, ...]]
    unseen: tuple[str, ...]
    probes: Callable[[Mapping[str, Any]], Iterable[dict[str, Any]]] = _no_probes
    others: tuple[str, ...] = ()
    variants: tuple[Mapping[str, Any], ...] = ()


def _num_blocks(config: Any) -> tuple[int, ...]:
    return tuple(depth for depth in config.num_blocks if depth)


FAMILIES = (
    Family(
        "resnext",
        resnext,
        _num_blocks,
        _BN,
        lambda theirs: [{"is_basic": basic} for basic in (True, False)],
    ),
    Family("densenet", densenet, _num_blocks, _BN),
    Family("efficientnet", efficientnet, depths_of_scale, ("padding", *_BN), scales),
    Family(
        "anynet",
        anynet,
        lambda config: config.to_anynet().depths,
        ("activation", "final_activation", "strides", *_BN),
        lambda theirs: [{"block_type": kind, "use_se": se} for kind in BlockType for se in (True, False)],
        others=("regnet",),
        variants=({"width_rounding": "torchvision"},),
    ),
    Family(
        "vision_transformer",
        vit,
        lambda config: (config.num_layers,),
        ("num_heads", "layer_norm_eps", "activation", "classifier", "pos_embed_resize", "stochastic_depth"),
        vit_probes,
    ),
    Family(
        "resnext3d",
        resnext3d,
        _num_blocks,
        ("stage_temporal_stride", "stage_spatial_stride", "stage_temporal_pool", "stem_maxpool", *_BN),
        clip_probes,
        variants=({"midplanes": "per_block"},),
    ),
)
