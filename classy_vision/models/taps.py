"""Reading submodules of a module whose forward is not ours."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, unknown
from classy_vision.heads.classy_head import check_name


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


def tap(model: nn.Module, blocks: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Makes submodules of ``model`` readable by name in ``run_tapped``.

    Args:
        model: the module.
        blocks: their paths ("layer1.0" becomes block "layer1-0"), or {block name: path}.

    Returns:
        {block name: path}.

    Raises:
        ConfigError: a path that the module does not have, or a name that cannot be used.
    """
    if isinstance(blocks, str):
        raise ConfigError(f"from_model takes a list of blocks: [{blocks!r}]")
    paths = blocks if isinstance(blocks, Mapping) else {path.replace(".", "-"): path for path in blocks}
    modules = dict(model.named_modules())
    for name, path in paths.items():
        check_name("block", name)
        if not path or path not in modules:
            raise unknown("submodule", path, filter(None, modules), type(model).__name__)
    for name, path in paths.items():
        modules[path].register_forward_hook(_Tap(name))
    return dict(paths)


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
