"""Trunks whose forward is their author's: any of their submodules is a block, and hooks read them."""

from __future__ import annotations

import functools
import inspect
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from classy_vision.config import ConfigError, unknown
from classy_vision.heads.classy_head import check_name, is_name
from classy_vision.trunk.heads_on_blocks import join_outputs, plan_heads, run_heads
from classy_vision.trunk.hooks import Owner, add_hook, is_running, run_hooked
from classy_vision.trunk.map_layout import MapLayouts
from classy_vision.trunk.names import END, group_names, split_place
from classy_vision.trunk.route import Features, Route

_adding = threading.RLock()
_under_way: set[tuple[Owner, str]] = set()
"""The steps that the thread with the lock makes readable."""


class ByHooks(Route):
    """The route of a trunk whose class has a ``forward`` of its own.

    A submodule is a block by its own name where that is unique in the model ("layer4"), and by its path
    ("encoder.layers.0", in state dicts "encoder-layers-0"). The forward is left where the last block that is
    wanted has run.

    Args:
        body: the path of the module whose submodules are the blocks; empty for the trunk itself.
        paths: {block name: path} of the only blocks; empty where any submodule is one.
        layouts: where the channels of maps are found to be; None where they come first.
    """

    def __init__(
        self, body: str = "", paths: Mapping[str, str] | None = None, layouts: MapLayouts | None = None
    ) -> None:
        self.body = body
        self.paths = dict(paths or {})
        self.layouts = layouts
        self.owner = Owner()
        self.hooked: dict[str, str] = {}

    def key(self, trunk: Any) -> tuple[str, ...]:
        return ()

    def steps(self, trunk: Any) -> Sequence[str]:
        read = (self.find(trunk, block) for place in trunk.heads for block in split_place(place))
        blocks = self.paths or [step for step in dict.fromkeys(read) if step != END]
        return [*blocks, END]

    def aliases(self, trunk: Any) -> Mapping[str, str]:
        return {path: name for name, path in self._places(trunk).items() if name != path}

    def block_names(self, trunk: Any) -> list[str]:
        if not self.paths:
            return [*(name for name in self._places(trunk) if name != END), END]
        groups = group_names(self.steps(trunk), self.aliases(trunk))
        return [name for step, others in groups.items() for name in (step, *others)]

    def find(self, trunk: Any, block: str) -> str:
        if block == END or block in self.hooked:
            return block
        places, aliases = self._places(trunk), self.aliases(trunk)
        if self.paths:
            if block in places or block in aliases:
                return block if block in places else aliases[block]
            raise unknown("block", block, self.block_names(trunk), type(trunk).__name__)
        step = block if block in places else aliases.get(block)
        if step is None:
            step = {path.replace(".", "-"): name for name, path in places.items()}.get(block)
        if step is not None:
            return check_name("block", step)
        same = [path for path in places.values() if path.rpartition(".")[2] == block]
        if same:
            raise ConfigError(
                f"{type(trunk).__name__}: block {block!r} is not unique: name one by its path: "
                f"{', '.join(same)}"
            )
        raise unknown("block", block, [*places, END], type(trunk).__name__)

    def walk(self, trunk: Any, x: Tensor, until: str) -> Features:
        steps, until = self.steps(trunk), self.find(trunk, until)
        return self.read(trunk, x, steps[: steps.index(until) + 1] if until in steps else [until])

    def run(self, trunk: Any, x: Tensor, until: str) -> Features:
        return self.walk(trunk, x, until)

    def read(self, trunk: Any, x: Tensor, steps: Collection[str]) -> Features:
        return iter(self.read_call(trunk, functools.partial(trunk.forward, x), steps))

    def look(self, trunk: Any, x: Tensor, steps: Collection[str]) -> Features:
        return self.read(trunk, x, steps)

    def end(self, trunk: Any, x: Tensor) -> Tensor:
        own = getattr(self._body(trunk), "extract_features", None) if self.body else None
        if callable(own):  # of the module that was made into a trunk
            features: Tensor = own(x)
            return features
        forward = functools.partial(trunk.forward, x)
        end: Any = run_hooked(self.owner, forward, (), self._channels_last())[1]
        return end

    def path(self, trunk: Any, step: str) -> str:
        path = self._places(trunk).get(step, "")
        return f"{self.body}.{path}" if self.body and path else path

    def check_input(self, trunk: Any, x: Any) -> None:
        """An author's forward takes what it takes."""

    def prepare(self, trunk: Any, steps: Iterable[str]) -> None:
        new = [step for step in steps if step not in self.hooked]
        if new:
            self._hook(trunk, new)

    def check_layouts(self, steps: Iterable[str]) -> None:
        if self.layouts:
            self.layouts.check(steps)

    def read_call(
        self, trunk: Any, forward: Callable[[], Any], steps: Collection[str]
    ) -> list[tuple[str, Any]]:
        """The features of ``steps`` in one call of the author's forward, in the order in which they ran."""
        self.prepare(trunk, steps)
        return list(run_hooked(self.owner, forward, steps, self._channels_last())[0].items())

    def call(self, forward: Callable[[], Any]) -> Any:
        """What the author's forward returns, a map with channels first."""
        last = self._channels_last()
        return run_hooked(self.owner, forward, (), last)[1] if END in last else forward()

    def modules(self, trunk: Any) -> dict[str, nn.Module]:
        """The modules that have hooks, by block."""
        body = self._body(trunk)
        return {name: body.get_submodule(path) for name, path in self.hooked.items() if path}

    def _channels_last(self) -> Collection[str]:
        return self.layouts.channels_last if self.layouts else ()

    def _body(self, trunk: nn.Module) -> nn.Module:
        return trunk.get_submodule(self.body)

    def _places(self, trunk: nn.Module) -> dict[str, str]:
        """The path of every block, by its name."""
        if self.paths:
            return self.paths
        modules = self._body(trunk).named_modules(remove_duplicate=False)
        paths = [path for path, _ in modules if path and path.partition(".")[0] != "heads"]
        count = Counter(path.rpartition(".")[2] for path in paths)
        own = {name: path for path in paths if count[name := path.rpartition(".")[2]] == 1 and is_name(name)}
        named = set(own.values())
        rest = {path.replace(".", "-"): path for path in paths if path not in named}
        by_path = {path: name for name, path in {**rest, **own}.items()}
        return {by_path[path]: path for path in paths if path in by_path}

    def _hook(self, trunk: Any, steps: Iterable[str]) -> None:
        """Makes steps readable; other threads wait until all is known of them."""
        with _adding:  # again where layouts are looked for, since that reads the steps
            new = [step for step in steps if step not in self.hooked and (self.owner, step) not in _under_way]
            begun = {(self.owner, step) for step in new}
            _under_way.update(begun)
            try:
                body, places = self._body(trunk), self._places(trunk)
                paths = {step: places.get(step, "") for step in new}  # the end may not be a module
                for step, path in paths.items():
                    if path:
                        add_hook(self.owner, body.get_submodule(path), step)
                if new and self.layouts:
                    self.layouts.find(trunk, body, new)
                self.hooked = {**self.hooked, **paths}
            finally:
                _under_way.difference_update(begun)


def with_heads(own: Callable[..., Any]) -> Callable[..., Any]:
    """An author's forward that gives what the heads make of its blocks, where there are heads."""
    first = [*inspect.signature(own).parameters, "x"][1]  # by which callers may name the input

    @functools.wraps(own)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        route, heads = self._route(), self.heads
        if not isinstance(route, ByHooks) or is_running(route.owner):
            return own(self, *args, **kwargs)
        call = functools.partial(own, self, *args, **kwargs)
        if not heads:
            return route.call(call)
        plan = plan_heads(self, heads)
        features = route.read_call(self, call, plan.readers)
        x = args[0] if args else kwargs.get(first)
        with_outputs = run_heads(self, x, features, heads, plan)
        found = {head: output for *_, outputs in with_outputs for head, output in outputs}
        return join_outputs(heads, found)

    return forward


def is_own_name(trunk: nn.Module, name: str) -> bool:
    """Whether an author's module may have ``name``, though a method of ours has it, which it then hides."""
    return type(trunk)._forward_is_own and callable(getattr(type(trunk), name, None))  # type: ignore[attr-defined]  # a method of a class
