"""What the shapes of a file's tensors say about the config of a trunk: the types that a family fills in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

Shapes = dict[str, tuple[int, ...]]
"""Shapes by our key names."""
NORM_OPTIONS = ("bn_epsilon", "bn_momentum", "stochastic_depth")
"""Options of families with batch norms that no tensor shows."""


class Inferred(NamedTuple):
    """Part of a config.

    Attributes:
        options: values that also apply to a preset.
        sizes: values that a preset sets itself.
    """

    options: dict[str, Any]
    sizes: dict[str, Any]


def _no_probes(theirs: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    return [{}]


@dataclass(frozen=True, eq=False)
class FamilyShapes:
    """How the configs of a family are read from shapes; a model class names its own as ``shapes``.

    Attributes:
        name: the registered name of the family that takes any sizes.
        infer: reads a config from the trunk's shapes. It may raise KeyError, IndexError, ValueError or
            ZeroDivisionError for the shapes of another family.
        depths: returns the blocks per stage of a parsed config.
        unseen: options that no shape shows.
        probes: yields configs, as far as rows of layouts read them, for the keys of a file.
        variants: options of presets that change shapes and that ``infer`` does not find.
        is_general: whether models of other families can be written as this one's; it is tried last.
    """

    name: str
    infer: Callable[[Shapes], Inferred]
    depths: Callable[[Any], tuple[int, ...]]
    unseen: tuple[str, ...]
    probes: Callable[[Mapping[str, Any]], Iterable[dict[str, Any]]] = _no_probes
    variants: tuple[Mapping[str, Any], ...] = ()
    is_general: bool = False


_BLOCK = re.compile(r"blocks\.(?:pathway0-stage(\d+)-block|block(\d+)-|layer_)(\d+)\.")


def count_blocks(trunk: Iterable[str]) -> tuple[int, ...]:
    """Counts the blocks of each stage by the names of tensors."""
    found: dict[int, int] = {}
    for match in filter(None, map(_BLOCK.match, trunk)):
        stage = int(match[1] or match[2] or 0)
        found[stage] = max(found.get(stage, 0), int(match[3]) + 1)
    return tuple(found[stage] for stage in sorted(found))


def read_num_blocks(config: Any) -> tuple[int, ...]:
    """Returns the blocks per stage of a config that has ``num_blocks``."""
    return tuple(depth for depth in config.num_blocks if depth)


def infer_squeeze(t: Shapes, se: str, width: int) -> dict[str, Any]:
    """Returns the options of the squeeze and excitation at the key ``se``, if there is one."""
    squeeze = t.get(f"{se}.excitation.0.weight")
    return {"use_se": True, "se_reduction_ratio": width // squeeze[0]} if squeeze else {}
