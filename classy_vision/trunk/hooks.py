"""Reading the outputs of submodules of a module whose forward is not ours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
import torch.fx
from torch import nn
from torch.utils._pytree import tree_map_only

from classy_vision.config import ConfigError, unknown
from classy_vision.heads.classy_head import check_name
from classy_vision.trunk.map_layout import channels_first
from classy_vision.trunk.names import END

torch.fx.wrap("channels_first")


class Owner:
    """Whose hooks they are: two trunks may be made of one module."""


class _Call:
    """What one call of a trunk has read so far."""

    def __init__(self, owner: Owner, wanted: Collection[str], channels_last: Collection[str]) -> None:
        self.owner = owner
        self.wanted = frozenset(wanted)
        self.channels_last = channels_last
        self.features: dict[str, Any] = {}


class StopForward(Exception):  # noqa: N818 - a signal, not an error
    """Ends a module's forward after the last block that the call in its arguments wants."""


class _Hook:
    """A forward hook that gives a block's output to the calls of its owner that want it."""

    def __init__(self, owner: Owner, name: str) -> None:
        self.owner = owner
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        for call in getattr(_running, "calls", ()):
            if call.owner is self.owner and self.name in call.wanted:
                self._read(call, output)

    def _read(self, call: _Call, output: Any) -> None:
        if self.name in call.features:
            raise ConfigError(
                f"block {self.name!r} runs more than once in a forward pass; name the module around it"
            )
        if self.name in call.channels_last:
            output = channels_first(output)
        # Export drops by itself what nothing reads, and cannot see a forward that is left early.
        continues = len(call.features) + 1 < len(call.wanted) or torch.compiler.is_exporting()
        if continues:  # what follows may change it in place
            output = tree_map_only(torch.Tensor, torch.clone, output)
        call.features[self.name] = output
        if not continues:
            raise StopForward(call)


_running = threading.local()  # the calls of a thread, the outermost first


def check_paths(model: nn.Module, blocks: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """The blocks that a user names, as {block name: path}.

    Args:
        model: the module.
        blocks: paths of its submodules ("layer1.0" becomes block "layer1-0"), or {block name: path}.

    Raises:
        ConfigError: a path that the module does not have, or a name that cannot be used.
    """
    if isinstance(blocks, str):
        raise ConfigError(f"from_model takes a list of blocks: [{blocks!r}]")
    if not all(isinstance(block, str) for block in blocks):
        raise ConfigError(f"blocks are names of submodules, not {blocks!r}; a shape goes to input_shape=")
    paths = blocks if isinstance(blocks, Mapping) else {path.replace(".", "-"): path for path in blocks}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, path in paths.items():
        check_name("block", name)
        if name == END:
            raise ConfigError(f"block {name!r}: the name belongs to the end of the trunk")
        if not path or path not in modules:
            raise unknown("submodule", path, filter(None, modules), type(model).__name__)
    return dict(paths)


def add_hook(owner: Owner, module: nn.Module, name: str) -> None:
    """Makes ``module`` readable as block ``name`` in ``run_hooked``, where it is not yet."""
    hooks = [hook for hook in module._forward_hooks.values() if isinstance(hook, _Hook)]
    if not any(hook.owner is owner and hook.name == name for hook in hooks):
        module.register_forward_hook(_Hook(owner, name))


def is_running(owner: Owner) -> bool:
    """Whether this thread is inside ``run_hooked`` of ``owner``."""
    return any(call.owner is owner for call in getattr(_running, "calls", ()))


def run_hooked(
    owner: Owner, forward: Callable[[], Any], wanted: Collection[str], channels_last: Collection[str] = ()
) -> tuple[dict[str, Any], Any | None]:
    """The features that hooks read, in the order in which they ran, and what ``forward`` returned if it ended.

    It is left where the last of ``wanted`` has run. The end of the trunk is its result, unless a block
    has that name.

    Args:
        owner: whose hooks read.
        forward: runs the module.
        wanted: the blocks to read.
        channels_last: blocks whose maps are to be seen with channels first.

    Raises:
        ConfigError: a block of ``wanted`` did not run, or ran twice.
    """
    call = _Call(owner, wanted, channels_last)
    outer = getattr(_running, "calls", ())
    _running.calls = (*outer, call)
    try:
        end = forward()
    except StopForward as stop:
        if stop.args[0] is not call:
            raise
        return call.features, None
    finally:
        _running.calls = outer
    if END in channels_last:
        end = channels_first(end)
    if END in wanted:
        call.features.setdefault(END, end)
    for name in wanted:
        if name not in call.features:
            raise ConfigError(f"block {name!r} did not run in the forward pass: name only blocks that do")
    return call.features, end
