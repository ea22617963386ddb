"""The features of blocks that a probe looks at, from the store that ``classy train`` reads as well.

They are computed as a training with a frozen trunk computes them, in the same batches: what a probe has kept,
the training that it recommends reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from classy_vision.embed.attentive import cut
from classy_vision.embed.work import Progress
from classy_vision.heads.classy_head import ClassyHead, build_head
from classy_vision.heads.pooled_head import PooledHead
from classy_vision.heads.pooling import as_tokens
from classy_vision.models import ClassyModel
from classy_vision.text import human
from classy_vision.train import feature_cache
from classy_vision.train.feature_cache import FeatureCache, OneProcess, StoredFeatures
from classy_vision.train.feature_store import SpaceError, find_limit
from classy_vision.train.job import Job
from classy_vision.train.model import speed_up

CHUNK = 256
"""Rows that are pooled at once."""
ATTENTION = "attention"
Spot = tuple[str, str]
"""A block and how it is pooled."""


def describe_head(pooling: str, name: str) -> dict[str, str]:
    """Describes the head that reads a block in some way."""
    if pooling == ATTENTION:
        return {"name": "attention_pool", "unique_id": name}
    return {"name": "fully_connected", "unique_id": name, "pooling": pooling}


@dataclass(frozen=True)
class BlockFeatures:
    """Features of the blocks of a model, for the rows of a job.

    Attributes:
        stored: on disk.
        job: whose rows they are.
        heads: that read them, by block and pooling; they were not trained.
        steps: the steps of blocks.
        device: on which they are used.
        new: how many rows were computed; the others were there.
    """

    stored: StoredFeatures
    job: Job
    heads: Mapping[Spot, ClassyHead]
    steps: Mapping[str, str]
    device: torch.device
    new: int

    def list_rows(self, held_out: bool) -> Tensor:
        """Lists the rows of a split whose files can be read, (n,)."""
        wrong = self.stored.splits[held_out].errors
        return torch.tensor([row for row in self.job.records.rows(held_out) if row not in wrong])

    def pool(self, block: str, pooling: str, rows: Tensor, held_out: bool) -> Tensor:
        """Reads pooled features (n, c) of rows (n,) of a split, on the CPU."""
        head, parts = self.heads[block, pooling], cut(rows, CHUNK)
        assert isinstance(head, PooledHead)
        with torch.inference_mode():
            read = (self._read(block, pooling, part, held_out) for part in parts)
            return torch.cat([head.pooled(x)[0].cpu() for x in read])

    def read_tokens(self, block: str, rows: Tensor, held_out: bool) -> Tensor:
        """Reads the tokens or positions (n, s, c) of rows (n,) of a split."""
        return as_tokens(self._read(block, ATTENTION, rows, held_out))

    def has_positions(self, block: str) -> bool:
        """Whether a block gives tokens or a map, and not one vector."""
        return self._read(block, ATTENTION, self.list_rows(False)[:1], False).dim() > 2

    def _read(self, block: str, pooling: str, rows: Tensor, held_out: bool) -> Tensor:
        place = str(self.heads[block, pooling].unique_id), self.steps[block]
        return self.stored.splits[held_out].read(rows.to(self.device), place)[place].float()


def compute_features(
    model: ClassyModel,
    job: Job,
    spots: Sequence[Spot],
    device: torch.device,
    progress: Callable[[Progress], object] | None = None,
    tell: Callable[[str], object] | None = None,
) -> BlockFeatures:
    """Computes the features that are not on disk, in one pass over the data.

    The heads of the model are replaced.

    Args:
        model: of which.
        job: whose rows, preprocessing and batches.
        spots: blocks and poolings.
        device: on which they are computed.
        progress: is called while they are computed.
        tell: is called with the bytes and where they are written, before.

    Raises:
        ConfigError: the environment's limit of space is not a number.
        CacheError: they cannot be kept; a SpaceError where there is not enough space.
    """
    find_limit()  # before any work is done
    heads: dict[str | tuple[str, ...], list[ClassyHead]] = {}
    for number, (block, pooling) in enumerate(spots):
        head = build_head({**describe_head(pooling, f"feature {number}"), "num_classes": 1})
        heads.setdefault((block,), []).append(head)
    model.set_heads(heads)
    model.to(device).eval().requires_grad_(False)
    speed_up(model, job.settings.schedule)
    watch = _Watch(job, progress, tell)
    try:
        stored = FeatureCache(job, OneProcess(device), model).fill(watch.as_progress())
    except SpaceError as error:
        less = ", and without --attentive each does" if any(kind == ATTENTION for _, kind in spots) else ""
        raise SpaceError(f"{error}. Fewer blocks take less{less}") from None
    assert stored is not None  # nobody asks this process to end
    found = {str(head.unique_id): head for attached in model.get_heads().values() for head in attached}
    named = {spot: found[f"feature {number}"] for number, spot in enumerate(spots)}
    steps = {block: model._step(block) for block, _ in spots}
    return BlockFeatures(stored, job, named, steps, device, watch.now.of_rows or 0)


@dataclass
class _Watch:
    """Tells how far the features are."""

    job: Job
    progress: Callable[[Progress], object] | None
    tell: Callable[[str], object] | None
    now: Progress = field(default_factory=lambda: Progress(0, 0, 0, 1, 0))

    def as_progress(self) -> feature_cache.Progress:
        say = self.tell or (lambda _: None)
        return feature_cache.Progress(lambda: False, lambda _: None, self._start, self._advance, say)

    def _start(self, rows: int, nbytes: int, folder: object) -> None:
        self.now = replace(self.now, of_rows=rows)
        if self.tell is not None:
            what = f"features of {rows:,} {self.job.settings.data.unit}s, {human(nbytes)}B, are computed once"
            self.tell(f"{what} and kept in {folder}" if rows else f"features are read from {folder}")

    def _advance(self, rows: int) -> None:
        self.now = replace(self.now, rows=self.now.rows + rows)
        if self.progress is not None:
            self.progress(self.now)
