"""What neighbours say about a collection.

Axes: n rows, k neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from classy_vision.embed.stored import Array, Embeddings


@dataclass(frozen=True)
class Group:
    """Near duplicates of each other.

    Attributes:
        rows: their numbers, in order.
        similarity: the lowest cosine of two that joins the group.
        copies: by the number of a row, that of an earlier one whose file has the same bytes.
        labels: that they have, in the order of the rows; of a good collection one at most.
    """

    rows: tuple[int, ...]
    similarity: float
    copies: Mapping[int, int]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Disagreement:
    """A row whose label is not the most frequent one of its neighbours.

    Attributes:
        row: its number.
        label: that it has.
        suggested: the most frequent one.
        share: of the neighbours with a label, how many have another one than this row.
    """

    row: int
    label: str
    suggested: str
    share: float


@dataclass(frozen=True)
class Query:
    """An image that was asked about, and its neighbours.

    Attributes:
        name: as it was given.
        row: its number; None where it is not in the folder.
        rows: the numbers of its neighbours, the nearest first.
        similarities: their cosines.
    """

    name: str
    row: int | None
    rows: tuple[int, ...]
    similarities: tuple[float, ...]


@dataclass(frozen=True)
class Neighbours:
    """What was found.

    Attributes:
        stored: the embeddings.
        column: of the features.
        label: the column of labels; None where there are none.
        labels: of the rows, where they have one.
        rows: the numbers of the neighbours of each row, the nearest first, (n, k).
        similarities: their cosines, (n, k).
        threshold: the cosine from which images are near duplicates.
        duplicates: groups of them, the largest first.
        outliers: the numbers of all rows, those first that are furthest from their k-th neighbour, (n,).
        disagreements: the clearest first.
        queries: as they were given.
    """

    stored: Embeddings
    column: str
    label: str | None
    labels: Sequence[str | None]
    rows: Array
    similarities: Array
    threshold: float
    duplicates: tuple[Group, ...]
    outliers: Array
    disagreements: tuple[Disagreement, ...]
    queries: tuple[Query, ...]

    @property
    def unit(self) -> str:
        """What a row is: "image" or "video"."""
        return "video" if self.stored.manifest["model"]["preprocessing"].get("clip") else "image"

    @property
    def distances(self) -> Array:
        """The distance of each row from its k-th neighbour, 1 - cosine, (n,)."""
        found: Array = 1 - self.similarities[:, -1]
        return found
