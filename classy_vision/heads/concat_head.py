"""A linear classifier on the pooled features of several blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, PositiveInt, Probability
from classy_vision.heads.classy_head import Source, check_choice, register_head
from classy_vision.heads.pooled_head import PooledHead
from classy_vision.heads.pooling import POOLINGS, Pooling
from classy_vision.weights.layout import Layout


@register_head("concat")
class ConcatHead(PooledHead):
    """Pools each block, puts the vectors one after the other; optional norm; linear.

    With the last four blocks of a vision transformer and ``pooling: [token, token, token, token_and_mean]``
    this is the linear classifier of DINOv2 (Oquab et al., "DINOv2: Learning Robust Visual Features without
    Supervision", 2023, section 7.1).

    Shape: features of any kind to (n, num_classes).

    Args:
        unique_id: the head's name.
        num_classes: the number of logits; None gives the vectors, one after the other.
        in_planes: channels of the blocks; taken from the blocks if they are left out.
        pooling: how blocks are pooled: one way, or one for each block.
        norm: of the vectors together: "batch" (without weights, as in He et al., "Masked Autoencoders Are
            Scalable Vision Learners", 2022, for linear probes), "layer" or "none".
        trunk_norm: read inner layers of a vision transformer through the trunk's last norm.
        dropout_rate: part of the vectors that training drops.

    Raises:
        ConfigError: as many ways of pooling as there are blocks, or one, are needed.
    """

    classifier = "fc"
    published: ClassVar = {"transformers_dinov2": Layout([("classifier", "fc")])}
    max_blocks = None

    def __init__(
        self,
        unique_id: str | int | None = None,
        num_classes: PositiveInt | None = None,
        in_planes: tuple[PositiveInt, ...] | None = None,
        pooling: Pooling | tuple[Pooling, ...] = "mean",
        norm: Literal["batch", "layer", "none"] = "none",
        trunk_norm: bool = True,
        dropout_rate: Probability = 0.0,
    ) -> None:
        super().__init__(unique_id, num_classes)
        self.poolings = (pooling,) if isinstance(pooling, str) else tuple(pooling)
        for kind in self.poolings or ("",):
            check_choice("pooling", kind, POOLINGS)
        check_choice("norm", norm, ("batch", "layer", "none"))
        self.norm_kind = norm
        self.trunk_norm = trunk_norm
        self.dropout = nn.Dropout(dropout_rate)
        if in_planes is not None:
            self.build(*in_planes)

    def connect(self, sources: Sequence[Source]) -> None:
        self._check_number(len(sources))
        super().connect(sources)

    @property
    def pools_first(self) -> bool:
        return True

    def build(self, *in_planes: int) -> None:
        self._check_number(len(in_planes))
        self.in_planes = in_planes
        width = self.make_pools(in_planes)
        if self.norm_kind == "batch":
            self.norm: nn.Module = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        elif self.norm_kind == "layer":
            self.norm = nn.LayerNorm(width)
        if self.num_classes is not None:
            self.fc = nn.Linear(width, self.num_classes)

    def forward(self, *features: Tensor) -> Tensor:
        x = torch.cat(self.pooled(*features), 1)
        if self.norm_kind != "none":
            x = self.norm(x)
        return x if self.num_classes is None else self.fc(self.dropout(x))

    def _check_number(self, blocks: int) -> None:
        if len(self.poolings) not in (1, blocks):
            raise ConfigError(
                f"head {self.unique_id!r}: pooling has {len(self.poolings)} entries for {blocks} blocks; one "
                f"for each block, or one for all, is needed"
            )
