"""What those heads have in common that make one vector of each image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from classy_vision.heads.classy_head import ClassyHead, Source, TokenLayout
from classy_vision.heads.pooling import Pool, Pooling, check_pooling


class PooledHead(ClassyHead):
    """Pools each of its blocks, once it has been told what they give.

    Without a trunk all tokens count as patches.
    """

    poolings: tuple[Pooling, ...] = ("mean",)
    """How, by block; a single one is that of all blocks."""
    pools: nn.ModuleList
    """One ``Pool`` for each block, once ``make_pools`` was called."""
    trunk_norm = True

    @property
    def pools_first(self) -> bool:
        """Whether nothing precedes the pooling, so that a vector that was pooled before does as well."""
        return False

    def connect(self, sources: Sequence[Source]) -> None:
        for kind, source in zip(self._kinds(len(sources)), sources, strict=True):
            check_pooling(kind, source.block, source.tokens is not None and source.tokens.has_class_token)
        super().connect(sources)
        for pool, source in zip(self.pools, sources, strict=True):
            assert isinstance(pool, Pool)
            pool.prefix = (source.tokens or TokenLayout()).prefix

    def make_pools(self, in_planes: Sequence[int]) -> int:
        """Makes the pooling of each block, and returns how many channels all of them give."""
        kinds = zip(self._kinds(len(in_planes)), in_planes, strict=True)
        self.pools = nn.ModuleList(Pool(kind, channels) for kind, channels in kinds)
        return sum(pool.out_channels for pool in self.pools)  # type: ignore[misc]  # modules of a ModuleList

    def pooled(self, *features: Tensor) -> list[Tensor]:
        return [pool(x) for pool, x in zip(self.pools, features, strict=True)]

    def _kinds(self, number: int) -> tuple[Pooling, ...]:
        return self.poolings * number if len(self.poolings) == 1 else self.poolings
