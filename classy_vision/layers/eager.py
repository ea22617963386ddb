"""Whether operators run as they are called, so that code may choose the cheaper of two equal ways."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad

_TYPES = (Tensor, torch.nn.Parameter)
_stand_in = threading.local()


def is_eager(*tensors: Tensor) -> bool:
    """Whether operators run one by one, as they are called, on plain tensors of a CPU or GPU.

    Compilers and tracers plan memory themselves, and function transforms look into operators.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:  # no public names
        return False
    for tensor in tensors:
        if type(tensor) not in _TYPES or device_of(tensor) not in ("cpu", "cuda"):
            return False
        if tensor.layout is not torch.strided or not tensor.numel():
            return False
    return True


@contextmanager
def outlines_as(device: str) -> Iterator[None]:
    """A context in which tensors on the meta device are treated as if they were on ``device`` ("cpu" or
    "cuda"), to find what memory a model takes there."""
    before = getattr(_stand_in, "device", "meta")
    _stand_in.device = device
    try:
        yield
    finally:
        _stand_in.device = before


def device_of(x: Tensor) -> str:
    """The type of its device; on the meta device the one that it stands for."""
    return getattr(_stand_in, "device", "meta") if x.is_meta else x.device.type


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether autograd records what is done with them."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
