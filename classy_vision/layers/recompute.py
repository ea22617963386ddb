"""Gradient checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, keeping only ``x`` for the backward pass, which runs the block again.

    The second run leaves the running statistics of batch norms alone, so that training gives
    the same numbers with and without it.
    """
    if torch.compiler.is_compiling():  # a compiled graph mutates its buffers once by itself
        return checkpoint(block, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _KeptStatistics(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


class _KeptStatistics(AbstractContextManager[None]):
    """Puts back the buffers of batch norms; entered once per backward pass."""

    def __init__(self, block: nn.Module) -> None:
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
        self.buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]

    def __enter__(self) -> None:
        self.kept = [buffer.clone() for buffer in self.buffers]

    def __exit__(self, *_: object) -> None:
        for buffer, value in zip(self.buffers, self.kept):
            buffer.data.copy_(value)  # .data: the backward pass has saved the buffer's version
