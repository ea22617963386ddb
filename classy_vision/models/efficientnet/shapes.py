"""The config of an EfficientNet, read from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

from classy_vision.weights.shapes import NORM_OPTIONS, FamilyShapes, Inferred, Shapes, count_blocks


def make_shapes(repeats: Sequence[int], head_filters: int) -> FamilyShapes:
    """Returns how configs are read.

    Args:
        repeats: blocks per stage at a depth of 1.
        head_filters: output channels of the trunk at a width of 1.
    """

    def infer(t: Shapes) -> Inferred:
        """A scale that is not a preset's gets the least depth that gives these blocks."""
        depth = min(n / times for n, times in zip(count_blocks(t), repeats))
        width = t["tail.conv.weight"][0] / head_filters
        scale = {"width_coefficient": width, "depth_coefficient": depth, "resolution": 224, "dropout_rate": 0.2}
        se = any(".se." in key for key in t)
        return Inferred({"in_channels": t["stem.conv.weight"][1], "use_se": se}, {"model_params": scale})

    def probe(theirs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yields the names of blocks, which some layouts count through, at scales with so many."""
        total = len({match[1] for key in theirs if (match := re.search(r"(?:^_|\.)blocks\.(\d+)\.", key))})
        found = {tuple(ceil(d / 20 * times) for times in repeats) for d in range(1, 81)}
        for counts in [counts for counts in sorted(found) if sum(counts) == total] or [()]:
            yield {"blocks": [f"block{s}-{i}" for s, n in enumerate(counts) for i in range(n)]}

    def depths(config: Any) -> tuple[int, ...]:
        return tuple(map(config.depth, repeats))

    return FamilyShapes("efficientnet", infer, depths, ("padding", *NORM_OPTIONS), probe)
