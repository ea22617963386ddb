"""The sum at the end of a residual block."""

from __future__ import annotations

from torch import Tensor

from classy_vision.layers.eager import is_eager


def add_shortcut(branch: Tensor, shortcut: Tensor) -> Tensor:
    """``branch + shortcut``, in the memory of ``branch``: the pages of a new tensor take longer than the sum.

    Args:
        branch: what a layer has just made, and does not keep for its gradient (so do norms, convolutions
            and products). Overwritten, unless something traces, or a hook has made a view of it.
        shortcut: of the same shape.
    """
    if is_eager(branch, shortcut) and branch.dtype == shortcut.dtype and not branch._is_view():
        return branch.add_(shortcut)
    return branch + shortcut
