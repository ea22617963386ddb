"""What a probe finds, and what is chosen of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WITHIN = 0.01
"""How much accuracy may be given up for a cheaper block."""


@dataclass(frozen=True)
class Reading:
    """A block and a pooling, and what they are worth.

    Attributes:
        column: of the labels.
        block, pooling: which.
        channels: of the features.
        macs: multiply-adds up to that block, for one sample.
        knn: the accuracy of nearest neighbours on what was held out.
        linear: that of the best linear classifier.
        weight_decay: of that classifier.
    """

    column: str
    block: str
    pooling: str
    channels: int
    macs: int
    knn: float
    linear: float
    weight_decay: float


@dataclass(frozen=True)
class Probe:
    """What was found.

    Attributes:
        readings: of all columns, blocks and poolings, as they run.
        folder: where it was written.
        new: how many samples were embedded for it; the others were on disk.
    """

    readings: tuple[Reading, ...]
    folder: Path
    new: int

    def best(self, column: str) -> Reading:
        """The reading with the highest linear accuracy."""
        return max(self._of(column), key=lambda one: (one.linear, -one.macs))

    def cheapest(self, column: str) -> Reading:
        """The cheapest reading within one point of the best; of one block the best."""
        least = self.best(column).linear - WITHIN
        return min(
            (one for one in self._of(column) if one.linear >= least), key=lambda one: (one.macs, -one.linear)
        )

    def front(self, column: str) -> list[Reading]:
        """The readings that are better than all cheaper ones."""
        kept: list[Reading] = []
        for one in sorted(self._of(column), key=lambda one: (one.macs, -one.linear)):
            if not kept or one.linear > kept[-1].linear:
                kept.append(one)
        return kept

    def _of(self, column: str) -> list[Reading]:
        return [one for one in self.readings if one.column == column]
