"""Reading submodules of a module whose forward is not ours."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class StopForward(Exception):  # noqa: N818 - a signal, not an error
    """Ends a module's forward behind the last block that is wanted."""


class _Call:
    """What one call has read so far."""

    def __init__(self, until: str) -> None:
        self.until = until
        self.features: dict[str, Tensor] = {}


class _Tap:
    """A forward hook that gives a block's output to the call that runs it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        call: _Call | None = getattr(_calls, "current", None)
        if call is None:
            return
        call.features[self.name] = output
        # Export drops by itself what nothing reads, and cannot see a forward that is left early.
        if self.name == call.until and not torch.compiler.is_exporting():
            raise StopForward


_calls = threading.local()  # a call's captures belong to its thread


def tap(modules: Mapping[str, nn.Module]) -> None:
    """Makes the modules readable by name in ``run_tapped``."""
    for name, module in modules.items():
        module.register_forward_hook(_Tap(name))


def run_tapped(model: nn.Module, x: Tensor, until: str) -> tuple[dict[str, Tensor], Tensor | None]:
    """The tapped features in the order they ran, and the end unless ``until`` came before it."""
    outer = getattr(_calls, "current", None)
    call = _calls.current = _Call(until)
    try:
        end = model(x)
    except StopForward:
        end = None
    finally:
        _calls.current = outer
    return call.features, end


def leaves(model: nn.Module) -> list[nn.Module]:
    """The modules that have no submodules, in which all weights usually are."""
    return [module for module in model.modules() if next(module.children(), None) is None]
