"""Models whose forward is their author's: any of their submodules is a block."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from classy_vision.config import ConfigError, unknown
from classy_vision.heads.classy_head import check_name, is_name
from classy_vision.trunk.hooks import Taps, is_running, run_tapped, tap
from classy_vision.trunk.loadable_trunk import LoadableTrunk
from classy_vision.trunk.trunk import END, ModelConfig

_tapping = threading.Lock()


class OwnForward(LoadableTrunk):
    """A trunk that may have a ``forward`` of its own instead of ``stem``, ``blocks`` and ``tail``.

    Every submodule is then a block, by its own name where that is unique in the model ("layer4"), and
    by its path ("encoder.layers.0", in state dicts "encoder-layers-0"). Features are read by hooks;
    the forward ends where the last block that is wanted has run.
    """

    _forward_is_own: ClassVar[bool] = False
    _runs_heads: ClassVar[bool] = False
    """Whether a class's own forward calls the one that runs the heads, which is so of ours."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__ and not cls._runs_heads:
            cls._forward_is_own = True
            cls.forward = _with_heads(cls.__dict__["forward"])  # type: ignore[method-assign]

    def __init__(self, config: ModelConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self._taps = Taps()
        self._tapped: dict[str, str] = {}
        self._channels_last: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        """An author's module may have the name of a method of ours, which it then hides."""
        if name == "heads" and not isinstance(value, nn.ModuleDict):
            raise TypeError(f"{type(self).__name__}.heads holds what set_heads attaches; name yours otherwise")
        hides = (
            self._forward_is_own and isinstance(value, nn.Module) and callable(getattr(type(self), name, None))
        )
        if name in self.__dict__.get("_modules", ()):
            self.__dict__.pop(name, None)
        if not hides:
            return super().__setattr__(name, value)
        nn.Module.__setattr__(self, name, value)
        self.__dict__[name] = value  # found before the method is

    def __delattr__(self, name: str) -> None:
        if name in self._modules:
            self.__dict__.pop(name, None)
        super().__delattr__(name)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        if self._forward_is_own and callable(getattr(type(self), name, None)):
            setattr(self, name, module)
        else:
            super().add_module(name, module)

    def walk(self, x: Tensor, until: str = END) -> Iterator[tuple[str, Tensor]]:
        if not self._is_own():
            return super().walk(x, until)
        steps, until = self._steps(), self._step(until)
        return self._read(x, steps[: steps.index(until) + 1] if until in steps else [until])

    def extract_features(self, x: Tensor) -> Tensor:
        """The end of the trunk, whatever heads there are."""
        if not self._is_own():
            return super().extract_features(x)
        features: Any = run_tapped(self._taps, functools.partial(self.forward, x), (), self._channels_last)[1]
        return features

    def check_input(self, x: Tensor) -> None:
        if not self._is_own():
            super().check_input(x)

    @property
    def block_names(self) -> list[str]:
        return (
            [*(name for name in self._places() if name != END), END] if self._is_open() else super().block_names
        )

    def _is_own(self) -> bool:
        """Whether this model is run by its author's forward, and not block by block."""
        if not self._forward_is_own:
            return False
        parts = self._modules
        is_chain = isinstance(parts.get("blocks"), nn.ModuleDict) and {"stem", "tail"} <= parts.keys()
        return not is_chain

    def _is_open(self) -> bool:
        """Whether every submodule is a block, and not only those that were named."""
        return self._is_own()

    def _body(self) -> nn.Module:
        """The module whose submodules are the blocks."""
        return self

    def _places(self) -> dict[str, str]:
        """Every submodule's path, by the name that it has as a block."""
        modules = self._body().named_modules(remove_duplicate=False)
        paths = [path for path, _ in modules if path and path.partition(".")[0] != "heads"]
        count = Counter(path.rpartition(".")[2] for path in paths)
        own = {name: path for path in paths if count[name := path.rpartition(".")[2]] == 1 and is_name(name)}
        named = set(own.values())
        rest = {path.replace(".", "-"): path for path in paths if path not in named}
        by_path = {path: name for name, path in {**rest, **own}.items()}
        return {by_path[path]: path for path in paths if path in by_path}

    def _steps(self) -> list[str]:
        if not self._is_open():
            return super()._steps()
        return [*(self._step(block) for block in self.heads if block != END), END]

    def _all_aliases(self) -> Mapping[str, str]:
        if not self._is_open():
            return super()._all_aliases()
        return {path: name for name, path in self._places().items() if name != path}

    def _step(self, block: str) -> str:
        if not self._is_open():
            return super()._step(block)
        if block == END or block in self._tapped:
            return block
        places = self._places()
        step = block if block in places else self._all_aliases().get(block)
        if step is None:
            step = {path.replace(".", "-"): name for name, path in places.items()}.get(block)
        if step is not None:
            return check_name("block", step)
        same = [path for path in places.values() if path.rpartition(".")[2] == block]
        if same:
            raise ConfigError(
                f"{type(self).__name__}: block {block!r} is not unique: name one by its path: {', '.join(same)}"
            )
        raise unknown("block", block, [*places, END], type(self).__name__)

    def _extent(self, steps: Collection[str]) -> str | Collection[str]:
        return steps if self._is_own() else super()._extent(steps)

    def _read(self, x: Tensor, steps: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        if not self._is_own():
            return super()._read(x, steps)
        return iter(self._run_tapped(functools.partial(self.forward, x), steps))

    def _run_tapped(self, forward: Callable[[], Any], steps: Collection[str]) -> list[tuple[str, Any]]:
        self._prepare(steps)
        return list(run_tapped(self._taps, forward, steps, self._channels_last)[0].items())

    def _prepare(self, steps: Iterable[str]) -> None:
        for step in steps if self._is_own() else ():
            if step not in self._tapped:
                self._tap(step)

    def _tap(self, step: str) -> None:
        with _tapping:
            if step in self._tapped:
                return
            path = self._places().get(step, "")  # the end of the trunk may be no module
            if path:
                tap(self._taps, self._body().get_submodule(path), step)
            self._tapped[step] = path

    def _path_of(self, step: str) -> str:
        """The name of the module that gives a step; empty where it is not one of ours."""
        if not self._is_own():
            return super()._path_of(step)
        path = self._places().get(step, "")
        body = next(name for name, module in self.named_modules() if module is self._body())
        return f"{body}.{path}" if body and path else path

    def _tapped_modules(self) -> dict[str, nn.Module]:
        """The modules that are read by hooks, by block."""
        return {name: self._body().get_submodule(path) for name, path in self._tapped.items() if path}


def _with_heads(own: Callable[..., Any]) -> Callable[..., Any]:
    """An author's forward that gives what the heads make of its blocks, where there are heads."""

    @functools.wraps(own)
    def forward(self: OwnForward, *args: Any, **kwargs: Any) -> Any:
        if not self.heads or not self._is_own() or is_running(self._taps):
            return own(self, *args, **kwargs)
        heads = self.heads
        _, _, readers = self._planned(heads)
        features = self._run_tapped(functools.partial(own, self, *args, **kwargs), readers)
        return self._outputs(features, heads, readers)

    return forward
