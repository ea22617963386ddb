"""Gradient checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016)."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint


def recompute(block: nn.Module, x: Tensor, *more: Tensor) -> Tensor:
    """``block(x, *more)``, keeping only ``x`` for the backward pass, which runs the block again.

    The second run leaves the running statistics of batch norms alone, so that training gives
    the same numbers with and without it.
    """
    if torch.compiler.is_compiling():  # a compiled graph mutates its buffers once by itself
        return checkpoint(block, x, *more, use_reentrant=False)

    modes = _modes()

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _AsBefore(block, modes)

    return checkpoint(block, x, *more, use_reentrant=False, context_fn=contexts)


def _modes() -> list[TorchFunctionMode]:
    modes: list[TorchFunctionMode] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]  # torch does not type it
    return modes


class _AsBefore(AbstractContextManager[None]):
    """Puts back the buffers of batch norms, and enters the modes of the forward pass, which torch leaves
    for the backward pass; entered once per backward pass."""

    def __init__(self, block: nn.Module, modes: list[TorchFunctionMode]) -> None:
        self.modes = modes
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
        self.buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]

    def __enter__(self) -> None:
        self.kept = [buffer.clone() for buffer in self.buffers]
        self.entered = ExitStack()
        there = _modes()
        for mode in self.modes:
            if mode not in there:
                self.entered.enter_context(mode)

    def __exit__(self, *_: object) -> None:
        self.entered.close()
        for buffer, value in zip(self.buffers, self.kept):
            buffer.data.copy_(value)  # .data: the backward pass has saved the buffer's version
