"""What trunks for clips check of their input.

Axes: n clips, c channels, t frames, h height, w width.
"""

from __future__ import annotations

from typing import Any

import torch.fx
from torch import Tensor


def check_clips(x: Any, channels: int, kind: str, tubelet_size: int = 1) -> None:
    """Checks that ``x`` is a batch of clips (n, c, t, h, w), or of images (n, c, h, w).

    Args:
        x: the input; one that torch.fx traces is let pass.
        channels: that the trunk takes.
        kind: of the trunk, for messages.
        tubelet_size: of which the number of frames is a multiple, unless there is only one.

    Raises:
        TypeError: it is not a tensor.
        ValueError: its rank, channels, type or number of frames are others.
    """
    if isinstance(x, torch.fx.Proxy):
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"the input is a tensor (n, c, t, h, w), not {type(x).__name__}")
    if x.dim() not in (4, 5) or x.shape[1] != channels:
        shapes = f"clips (n, {channels}, t, h, w) or images (n, {channels}, h, w)"
        raise ValueError(f"{kind} takes {shapes}, not {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"clips are floating point, not {x.dtype}: normalize them, x.float() / 255")
    if x.dim() == 5 and x.shape[2] != 1 and x.shape[2] % tubelet_size:
        raise ValueError(f"the number of frames must be 1 or a multiple of {tubelet_size}, not {x.shape[2]}")
