"""A trunk with heads on its blocks: one forward pass, many outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from classy_vision.config import ConfigError
from classy_vision.heads.classy_head import ClassyHead, attachable, build_all, needs_in_plane
from classy_vision.models.features import OverwrittenError, Trace, trace
from classy_vision.models.trunk import END, ModelConfig, Trunk
from classy_vision.weights.state import head_of


class HeadedTrunk(Trunk):
    """A trunk, and any number of heads on its blocks: ``heads[block][id]``.

    A head's input is a local variable of the forward pass, so that is where it runs: no hook,
    no wrapper, nothing kept.
    """

    def __init__(self, config: ModelConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__(config, **options)
        self.heads = nn.ModuleDict()
        self._resting: frozenset[str] = frozenset()

    @classmethod
    def default_head(cls, config: ModelConfig) -> dict[str, Any]:
        """The head that ``num_classes`` stands for, by its name and options."""
        return {"name": "fully_connected"}

    def forward(self, x: Tensor) -> Any:
        """The trunk's output, the output of the only head, or a dict of outputs by head id.

        Raises:
            ValueError: the input's rank or channels are not what the trunk takes.
        """
        if not self.heads:
            return self.features(x, [END])[END]
        self.check_input(x)
        return self._outputs(self._read(x, self._readers()))

    def _outputs(self, features: Iterable[tuple[str, Any]]) -> Any:
        """What the heads make of ``features``: that of the only head, or all by id, as the heads stand."""
        readers = self._readers()
        outputs = {head.unique_id: head(x) for name, x in features for head in readers.get(name, ())}
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        return {
            head.unique_id: outputs[head.unique_id] for heads in self.get_heads().values() for head in heads
        }

    def set_heads(self, heads: Mapping[str, Iterable[ClassyHead]]) -> None:
        """Replaces all heads, or raises and changes nothing.

        Heads take the model's device, type and mode; those without ``in_plane`` get it from
        their block. Parameters that no head depends on get ``requires_grad=False`` until one
        does: make optimizers afterwards.

        Args:
            heads: {block: heads}.

        Raises:
            UnknownNameError: no such block.
            ConfigError: two heads of one id, or a head whose ``in_plane`` is not the block's.
        """
        if not isinstance(heads, Mapping):
            raise ConfigError(f"set_heads takes {{block: [head, ...]}}, not {type(heads).__name__}")
        wanted: dict[str, list[ClassyHead]] = {}
        for block, entries in heads.items():
            step = self._step(block)
            if not isinstance(entries, Iterable) or isinstance(entries, nn.Module):
                raise ConfigError(f"block {block!r}: a list of heads is needed, not {type(entries).__name__}")
            if entries := list(entries):
                wanted[step if "." in block else block] = entries
        known = self._known_channels()
        traced = None if known else self._traced(wanted)
        channels = {b: known[self._step(b)] for b in wanted} if known else {}
        if traced:
            channels = {b: traced.info(self._step(b)).channels for b in wanted}
        attachable(wanted, channels)
        like = next((p for p in self._trunk().values() if p.is_floating_point()), None)
        with torch.inference_mode(False):
            build_all([(head, channels.get(block)) for block, entries in wanted.items() for head in entries])
            for head in (head for entries in wanted.values() for head in entries):
                if like is not None:
                    head.to(device=like.device, dtype=like.dtype)
                head.train(self.training)
        self.heads = nn.ModuleDict(
            {block: nn.ModuleDict({h.unique_id: h for h in entries}) for block, entries in wanted.items()}
        )
        self._rest(traced)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As in torch, but that blocks which no head reads stay out of training."""
        self._resting = frozenset()
        super().requires_grad_(requires_grad)
        self._rest(None if self._known_channels() else self._traced(self.get_heads(), known=True))
        return self

    def get_heads(self) -> dict[str, list[ClassyHead]]:
        """The heads by block."""
        return {block: list(heads.values()) for block, heads in self.heads.items()}  # type: ignore[operator]

    def clear_heads(self) -> None:
        """Removes all heads; the trunk's parameters and keys stay as they are."""
        self.set_heads({})

    def _readers(self) -> dict[str, list[ClassyHead]]:
        """The heads by step of the walk."""
        readers: dict[str, list[ClassyHead]] = {}
        for block, heads in self.get_heads().items():
            readers.setdefault(self._step(block), []).extend(heads)
        return readers

    def _trunk(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if not head_of(name)}

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

    def _rest(self, traced: Trace | None) -> None:
        """Takes gradients from the parameters that no head needs, and gives back the others'."""
        trunk = self._trunk()
        for name in self._resting & trunk.keys():
            trunk[name].requires_grad_(True)
        unread = traced.unread(self._readers()) if traced else self._behind_heads(trunk)
        self._resting = frozenset(name for name in trunk if name in unread and trunk[name].requires_grad)
        for name in self._resting:
            trunk[name].requires_grad_(False)
            trunk[name].grad = None

    def _behind_heads(self, names: Iterable[str]) -> set[str]:
        """Parameters of the steps behind the deepest head, where the trunk is known to be a chain."""
        if not self.heads or not self._known_channels():
            return set()
        steps = self._steps()
        rest = steps[steps.index(self._deepest(self._readers())) + 1 :]
        behind = tuple("tail." if step == END else f"blocks.{step}." for step in rest)
        return {name for name in names if name.startswith(behind)}
