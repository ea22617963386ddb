"""A trunk with heads on its blocks: one forward pass, many outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from classy_vision.config import ConfigError
from classy_vision.heads.classy_head import ClassyHead, check_heads, needs_in_plane
from classy_vision.trunk.features import OverwrittenError, Trace, trace
from classy_vision.trunk.trunk import END, ModelConfig, Trunk
from classy_vision.trunk.undo import all_or_nothing
from classy_vision.weights.state import head_of


@dataclass(frozen=True)
class _Frozen:
    """What ``freeze`` keeps out of training, by name.

    Attributes:
        until: the last step that is frozen.
        parameters: those that get no gradient.
        modules: those that stay in evaluation.
    """

    until: str | None = None
    parameters: frozenset[str] = field(default=frozenset(), repr=False)
    modules: frozenset[str] = field(default=frozenset(), repr=False)


_Plan = tuple[tuple[str | None, ...], str, dict[str, tuple[str, ...]]]
"""What it is for (the blocks of heads, None, the steps), the last step to run, and blocks of heads by step."""


class HeadedTrunk(Trunk):
    """A trunk, and any number of heads on its blocks: ``heads[block][id]``.

    A head's input is a local variable of the forward pass, so that is where it runs: no hook,
    no wrapper, nothing kept.
    """

    def __init__(self, config: ModelConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.heads = nn.ModuleDict()
        self._held: frozenset[str] = frozenset()  # parameters that this class keeps out of training
        self._frozen = _Frozen()
        self._trains_all = False
        self._plan: _Plan = ((None,), END, {})

    @classmethod
    def default_head(cls, config: ModelConfig) -> dict[str, Any]:
        """The head that ``num_classes`` stands for, by its name and options."""
        return {"name": "fully_connected"}

    def forward(self, x: Tensor) -> Any:
        """The trunk's output, the output of the only head, or a dict of outputs by head id.

        Raises:
            ValueError: the input's rank or channels are not what the trunk takes.
        """
        heads = self.heads  # this call's: another thread may attach others meanwhile
        self.check_input(x)
        if not heads:
            end = x
            for _, feature in self.walk(x):
                end = feature
            return end
        names, until, readers = self._plan
        if names != (*heads, None, *self._steps()):
            _, until, readers = self._planned(heads)
        return self._outputs(self.walk(x, until), heads, readers)

    def _outputs(
        self, features: Iterable[tuple[str, Any]], heads: nn.ModuleDict, readers: Mapping[str, Iterable[str]]
    ) -> Any:
        """What the heads make of ``features``: that of the only head, or all by id, as the heads stand."""
        found: dict[str, Any] = {}
        for name, feature in features:
            for block in readers.get(name, ()):
                for head in heads[block].values():  # type: ignore[operator]
                    found[head.unique_id] = head(feature)
        if len(found) == 1:
            return next(iter(found.values()))
        return {name: found[name] for entries in heads.values() for name in entries}  # type: ignore[attr-defined]

    # Heads

    def set_heads(self, heads: Mapping[str, Iterable[ClassyHead]]) -> None:
        """Replaces all heads, or raises and changes nothing.

        Heads take the model's device, type and mode; those without ``in_plane`` get it from
        their block. Parameters that no head depends on get ``requires_grad=False`` until one
        does, unless ``train_all`` was called: make optimizers afterwards.

        Args:
            heads: {block: heads}.

        Raises:
            UnknownNameError: no such block.
            ConfigError: two heads of one id, or a head whose ``in_plane`` is not the block's.
        """
        wanted = self._wanted(heads)
        new = [head for entries in wanted.values() for head in entries]
        known = self._known_channels()
        steps = [self._step(block) for block in wanted]
        self._prepare(steps)
        traced = None if known else self._traced(wanted)
        self._check_layouts(steps)
        channels = {b: known[self._step(b)] for b in wanted} if known else {}
        if traced:
            channels = {b: traced.info(self._step(b)).channels for b in wanted}
        check_heads(wanted, channels)
        with all_or_nothing(self, new):
            with torch.inference_mode(False):
                for block, entries in wanted.items():
                    self._build(entries, channels.get(block))
            by_block = {b: nn.ModuleDict({h.unique_id: h for h in entries}) for b, entries in wanted.items()}
            self.heads = nn.ModuleDict(by_block)
            self._plan = self._planned(self.heads)
            self._hold(traced)

    def get_heads(self) -> dict[str, list[ClassyHead]]:
        """The heads by block."""
        return {block: list(heads.values()) for block, heads in self.heads.items()}  # type: ignore[operator]

    def clear_heads(self) -> None:
        """Removes all heads; the trunk's parameters and keys stay as they are."""
        self.set_heads({})

    def _wanted(self, heads: Mapping[str, Iterable[ClassyHead]]) -> dict[str, list[ClassyHead]]:
        if not isinstance(heads, Mapping):
            raise ConfigError(f"set_heads takes {{block: [head, ...]}}, not {type(heads).__name__}")
        wanted: dict[str, list[ClassyHead]] = {}
        for block, entries in heads.items():
            step = self._step(block)
            if not isinstance(entries, Iterable) or isinstance(entries, nn.Module):
                raise ConfigError(f"block {block!r}: a list of heads is needed, not {type(entries).__name__}")
            if entries := list(entries):
                wanted[step if "." in block else block] = entries
        return wanted

    def _build(self, heads: Iterable[ClassyHead], channels: int | None) -> None:
        """Makes heads fit the channels of their block, and the trunk's device, type and mode."""
        like = next((p for p in self._trunk().values() if p.is_floating_point()), None)
        for head in heads:
            if head.in_plane is None and channels is not None:
                head.build(channels)
            if like is not None:
                head.to(device=like.device, dtype=like.dtype)
            head.train(self.training)

    def _planned(self, heads: nn.ModuleDict) -> _Plan:
        """How to run ``heads``, from names alone."""
        readers: dict[str, tuple[str, ...]] = {}
        for block in heads:
            step = self._step(block)
            readers[step] = (*readers.get(step, ()), block)
        steps = self._steps()
        return (*heads, None, *steps), self._deepest(readers) if readers else END, readers

    def _readers(self) -> dict[str, list[ClassyHead]]:
        """The heads by step of the walk."""
        readers: dict[str, list[ClassyHead]] = {}
        for block, heads in self.get_heads().items():
            readers.setdefault(self._step(block), []).extend(heads)
        return readers

    # What trains

    @property
    def frozen_until(self) -> str | None:
        """The last block that ``freeze`` keeps out of training; None where nothing is frozen."""
        return self._frozen.until

    def freeze(self, until: str | None = END) -> Self:
        """Keeps the blocks up to and including ``until`` out of training, and trains those after it.

        Their parameters get ``requires_grad=False``. Their modules, norms and dropout among them, stay in
        evaluation, also after ``model.train()``, so that running statistics do not move. It holds when
        heads change and in copies, until it is called again. State dicts do not have it. Make optimizers
        afterwards.

        Args:
            until: a name in ``block_names``; by default the whole trunk; None is ``unfreeze``.

        Raises:
            UnknownNameError: no such block.
            ConfigError: it cannot be told what the block depends on, because the module cannot be run
                without data.
        """
        frozen = _Frozen() if until is None else self._found_frozen(self._step(until))
        traced = self._look()
        with all_or_nothing(self):
            thawed, self._frozen = self._frozen.modules, frozen
            self._hold(traced)
            for name, module in self.named_modules():
                if name in frozen.modules:
                    module.training = False
                elif name in thawed:
                    module.training = self.training
        return self

    def unfreeze(self) -> Self:
        """Ends ``freeze``: what it kept out of training takes part again."""
        return self.freeze(None)

    def train_all(self) -> Self:
        """Lets all parameters train, also those that no head depends on, for losses on features.

        Holds until ``requires_grad_`` is called. What is frozen stays frozen. Training on several
        processes then needs losses that depend on every block, or ``find_unused_parameters``.
        """
        return self._set_gradients(True, train_all=True)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As in torch, whole or not at all, but that two kinds of parameters stay out of training: those
        that ``freeze`` holds, and those that no head depends on (see ``train_all``)."""
        return self._set_gradients(requires_grad, train_all=False)

    def train(self, mode: bool = True) -> Self:
        """As in torch, whole or not at all, but that what is frozen stays in evaluation."""
        before = [(module, module.training) for module in self.modules()]
        try:
            super().train(mode)
            if self._frozen.modules:
                for name, module in self.named_modules():
                    module.training = module.training and name not in self._frozen.modules
        except BaseException:
            for module, training in before:
                module.training = training
            raise
        return self

    def _set_gradients(self, requires_grad: bool, train_all: bool) -> Self:
        traced = self._look()
        with all_or_nothing(self):
            self._held, self._trains_all = frozenset(), train_all
            super().requires_grad_(requires_grad)
            self._hold(traced)
        return self

    def _trunk(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if not head_of(name)}

    def _look(self) -> Trace | None:
        """What the present heads depend on, where the steps alone do not tell."""
        return None if self._known_channels() else self._traced(self.get_heads(), known=True)

    def _traced(self, heads: Mapping[str, list[ClassyHead]], known: bool = False) -> Trace | None:
        """The walk to the deepest of the heads; None where the trunk cannot tell and they need not know."""
        if not heads:
            return None
        try:
            steps = self._extent({self._step(b) for b in heads})
            return trace(self, self.input_shape, steps, gradients=True)
        except OverwrittenError:
            raise
        except ConfigError:
            if not known and any(needs_in_plane(head) for entries in heads.values() for head in entries):
                raise
            return None

    def _hold(self, traced: Trace | None) -> None:
        """Takes gradients from the parameters that are frozen or that no head needs, and gives back others'."""
        trunk = self._trunk()
        unread = traced.unread(self._readers()) if traced else self._behind_heads(trunk)
        idle = self._frozen.parameters | (set() if self._trains_all else unread)
        wanted = {name for name, p in trunk.items() if p.requires_grad or name in self._held}
        self._held = frozenset(wanted & idle)
        for name in wanted:
            if trunk[name].requires_grad == (name in self._held):
                trunk[name].requires_grad_(name not in self._held)
        for name in self._held:
            trunk[name].grad = None

    def _behind_heads(self, names: Iterable[str]) -> set[str]:
        """Parameters of the steps behind the deepest head, where the trunk is known to be a chain."""
        if not self.heads or not self._known_channels():
            return set()
        steps = self._steps()
        behind = self._prefixes(steps[steps.index(self._deepest(self._readers())) + 1 :])
        return {name for name in names if name.startswith(behind)}

    def _found_frozen(self, until: str) -> _Frozen:
        """What the step ``until`` is made by."""
        steps = self._steps()
        if self._known_channels():
            parts = self._prefixes(steps[: steps.index(until) + 1])
            parameters = frozenset(name for name in self._trunk() if name.startswith(parts))
            return _Frozen(until, parameters, self._names_in(parts))
        traced = trace(self, self.input_shape, until, gradients=True)
        idle = traced.unread({until}) - {name for name in traced.parameters if head_of(name)}
        parameters = frozenset(name for name in self._trunk() if name not in idle)
        return _Frozen(until, parameters, self._made_by(traced, idle, until))

    def _names_in(self, parts: tuple[str, ...]) -> frozenset[str]:
        return frozenset(name for name, _ in self.named_modules() if f"{name}.".startswith(parts))

    def _made_by(self, traced: Trace, idle: set[str], until: str) -> frozenset[str]:
        """The modules that have run, but for those with parameters of a branch that ``until`` does not read."""
        finished = {*traced.finished, self._path_of(until)}
        return frozenset(
            name for name in finished if name and not any(other.startswith(f"{name}.") for other in idle)
        )

    def _path_of(self, step: str) -> str:
        """The name of the module that gives a step; empty where it is not one of ours."""
        return step if step == "stem" else "tail" if step == END else f"blocks.{step}"

    def _prefixes(self, steps: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"{self._path_of(step)}." for step in steps)
