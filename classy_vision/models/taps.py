"""Reading submodules of a module whose forward is not ours."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError, unknown
from classy_vision.heads.classy_head import check_name
from classy_vision.models.map_layout import channels_first
from classy_vision.models.trunk import END


class Taps:
    """Whose taps they are: two trunks may be made of one module."""


class _Call:
    """What one call of a trunk has read so far."""

    def __init__(self, owner: Taps, until: str, channels_last: Collection[str]) -> None:
        self.owner = owner
        self.until = until
        self.channels_last = channels_last
        self.features: dict[str, Tensor] = {}


class StopForward(Exception):  # noqa: N818 - a signal, not an error
    """Ends a module's forward behind the last block that the call in its arguments wants."""


class _Tap:
    """A forward hook that gives a block's output to the call of its owner, if one is running."""

    def __init__(self, owner: Taps, name: str) -> None:
        self.owner = owner
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        for call in getattr(_running, "calls", ()):
            if call.owner is self.owner:
                self._read(call, output)

    def _read(self, call: _Call, output: Tensor) -> None:
        if self.name in call.features:
            raise ConfigError(
                f"block {self.name!r} runs more than once in a forward pass; name the module around it"
            )
        if self.name in call.channels_last:
            output = channels_first(output)
        if self.name != call.until:
            call.features[self.name] = output.clone()  # what follows may change it in place
            return
        call.features[self.name] = output
        # Export drops by itself what nothing reads, and cannot see a forward that is left early.
        if not torch.compiler.is_exporting():
            raise StopForward(call)


_running = threading.local()  # the calls of a thread, the outermost first


def tap(owner: Taps, model: nn.Module, blocks: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Makes submodules of ``model`` readable by name in ``run_tapped``.

    Args:
        owner: whose they are.
        model: the module.
        blocks: their paths ("layer1.0" becomes block "layer1-0"), or {block name: path}.

    Returns:
        {block name: path}.

    Raises:
        ConfigError: a path that the module does not have, or a name that cannot be used.
    """
    if isinstance(blocks, str):
        raise ConfigError(f"from_model takes a list of blocks: [{blocks!r}]")
    if not all(isinstance(block, str) for block in blocks):
        raise ConfigError(f"blocks are names of submodules, not {blocks!r}; a shape goes to input_shape=")
    paths = blocks if isinstance(blocks, Mapping) else {path.replace(".", "-"): path for path in blocks}
    modules = dict(model.named_modules())
    for name, path in paths.items():
        check_name("block", name)
        if name == END:
            raise ConfigError(f"block {name!r}: the name belongs to the end of the trunk")
        if not path or path not in modules:
            raise unknown("submodule", path, filter(None, modules), type(model).__name__)
    for name, path in paths.items():
        modules[path].register_forward_hook(_Tap(owner, name))
    return dict(paths)


def run_tapped(
    owner: Taps, model: nn.Module, x: Tensor, until: str, channels_last: Collection[str] = ()
) -> tuple[dict[str, Tensor], Tensor | None]:
    """The tapped features in the order they ran, and the end unless ``until`` came before it.

    Args:
        channels_last: blocks whose maps are to be seen with channels first.
    """
    call = _Call(owner, until, channels_last)
    outer = getattr(_running, "calls", ())
    _running.calls = (*outer, call)
    try:
        return call.features, model(x)
    except StopForward as stop:
        if stop.args[0] is not call:
            raise
        return call.features, None
    finally:
        _running.calls = outer
