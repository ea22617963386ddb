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
        macs: multiply-adds up to that block, for one sample; those of heads are not counted.
        knn: the accuracy of nearest neighbours on what was held out; None where the pooling is attention.
        linear: that of the best linear classifier.
        weight_decay: of that classifier.
        attentive: the accuracy of the best attentive probe; None where the pooling is not attention.
        learning_rate: of that probe.
    """

    column: str
    block: str
    pooling: str
    channels: int
    macs: int
    knn: float | None
    linear: float | None
    weight_decay: float | None
    attentive: float | None = None
    learning_rate: float | None = None

    @property
    def accuracy(self) -> float:
        """The accuracy of the classifier that was trained."""
        found = self.linear if self.attentive is None else self.attentive
        assert found is not None
        return found


@dataclass(frozen=True)
class Probe:
    """What was found.

    Attributes:
        readings: of all columns, blocks and poolings, as they run.
        folder: where it was written.
        new: for how many samples features were computed; those of the others were on disk.
    """

    readings: tuple[Reading, ...]
    folder: Path
    new: int

    def best(self, column: str) -> Reading:
        """The reading with the highest accuracy of a classifier that was trained."""
        return max(self._of(column), key=lambda one: (one.accuracy, -one.macs))

    def cheapest(self, column: str) -> Reading:
        """The cheapest reading within one point of the best; of one block the best."""
        least = self.best(column).accuracy - WITHIN
        return min(
            (one for one in self._of(column) if one.accuracy >= least),
            key=lambda one: (one.macs, -one.accuracy),
        )

    def front(self, column: str) -> list[Reading]:
        """The readings that are better than all cheaper ones."""
        kept: list[Reading] = []
        for one in sorted(self._of(column), key=lambda one: (one.macs, -one.accuracy)):
            if not kept or one.accuracy > kept[-1].accuracy:
                kept.append(one)
        return kept

    def _of(self, column: str) -> list[Reading]:
        return [one for one in self.readings if one.column == column]
