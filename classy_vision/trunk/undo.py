"""Changes of a model that are made whole or not at all, also where an interrupt comes in the middle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_REGISTERED = ("_parameters", "_buffers", "_modules")
_PLAIN = (Tensor, nn.Parameter)


@contextmanager
def all_or_nothing(model: nn.Module, heads: Iterable[nn.Module] = (), values: bool = False) -> Iterator[None]:
    """Puts the model back as it was when what runs inside is left by an exception, ``KeyboardInterrupt`` too.

    Parameters stay the same objects in the same memory, so that optimizers keep them.

    Args:
        model: its modules, modes, and which parameters train.
        heads: modules that do not belong to it yet, and are put back on their device as well.
        values: whether numbers are going to change: a copy of them is held meanwhile.
    """
    modules = list(dict.fromkeys((*model.modules(), *(m for head in heads for m in head.modules()))))
    before = [_Module(module) for module in modules]
    moved = [(p, p.data) for head in heads for p in (*head.parameters(), *head.buffers()) if not is_lazy(p)]
    numbers = _copies(model) if values else []
    try:
        yield
    except BaseException:
        for state in before:
            state.put_back()
        for tensor, data in moved:
            tensor.data = data
        _write(numbers)
        raise


class _Module:
    """What a module refers to, and which of its parameters train."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.state = dict(module.__dict__)
        # Modules of TorchScript keep these elsewhere.
        self.registered = {kind: dict(self.state[kind]) for kind in _REGISTERED if kind in self.state}
        parameters = [p for p in module.parameters(recurse=False) if p is not None]
        self.training = [(p, p.requires_grad, p.grad) for p in parameters]

    def put_back(self) -> None:
        _refill(self.module.__dict__, self.state)
        for kind, entries in self.registered.items():
            _refill(self.module.__dict__[kind], entries)
        for parameter, requires_grad, grad in self.training:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
            if parameter.grad is not grad:
                parameter.grad = grad


def _refill(table: dict[str, Any], entries: dict[str, Any]) -> None:
    for name in [*table]:
        if name not in entries:
            del table[name]
    for name, value in entries.items():
        if table.get(name, entries) is not value:
            table[name] = value


def _copies(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    tensors = [t for t in (*model.parameters(), *model.buffers()) if not is_lazy(t) and not t.is_meta]
    return [(tensor, _copy(tensor.detach())) for tensor in tensors]


def _copy(tensor: Tensor) -> Tensor:
    try:
        return tensor.clone()
    except torch.OutOfMemoryError:  # of a device that holds the model, but not twice
        return tensor.cpu()


def _write(numbers: list[tuple[Tensor, Tensor]]) -> None:
    """Writes the second of each pair into the first: plain tensors in one call, which no interrupt divides."""
    plain = [(t.detach(), value) for t, value in numbers if type(t) in _PLAIN]
    others = [(t.detach(), value) for t, value in numbers if type(t) not in _PLAIN]
    with torch.no_grad():
        try:
            if plain:
                torch._foreach_copy_([t for t, _ in plain], [value for _, value in plain])
        except Exception:  # the device has failed: what is written last are references
            for tensor, value in numbers:
                with suppress(Exception):
                    tensor.data = value
        for tensor, value in others:
            tensor.copy_(value)
