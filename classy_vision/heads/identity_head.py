"""The feature itself as an output."""

from __future__ import annotations

from torch import Tensor

from classy_vision.heads.classy_head import ClassyHead, register_head


@register_head("identity")
class IdentityHead(ClassyHead):
    """Gives the block's feature as it is, beside other heads' predictions."""

    def forward(self, x: Tensor) -> Tensor:
        return x
