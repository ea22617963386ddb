"""A trunk with heads on its blocks: one forward pass, many outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from classy_vision.heads.classy_head import ClassyHead, attachable
from classy_vision.models.trunk import ModelConfig, Trunk
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

    def forward(self, x: Tensor) -> Any:
        """The trunk's output, the output of the only head, or a dict of outputs by head id.

        Raises:
            ValueError: the input's rank or channels are not what the trunk takes.
        """
        if not self.heads:
            return self.extract_features(x)
        self.check_input(x)
        readers = self._readers()
        outputs: dict[str, Any] = {}
        for name, feature in self.walk(x, self._deepest(readers)):
            for head in readers.get(name, ()):
                outputs[head.unique_id] = head(feature)
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def set_heads(self, heads: Mapping[str, Iterable[ClassyHead]]) -> None:
        """Replaces all heads, or raises and changes nothing.

        Heads take the model's device, type and mode; those without ``in_plane`` get it from
        their block. Blocks that no head reads take no part in training until one does.

        Args:
            heads: {block: heads}.

        Raises:
            UnknownNameError: no such block.
            ConfigError: two heads of one id, or a head whose ``in_plane`` is not the block's.
        """
        wanted = {block: entries for block, some in heads.items() if (entries := list(some))}
        channels = {block: info.channels for block, info in self.feature_info(wanted).items()}
        attachable(wanted, channels)
        like = next((p for p in self._trunk().values() if p.is_floating_point()), None)
        for block, entries in wanted.items():
            for head in entries:
                if head.in_plane is None:
                    head.build(channels[block])
                if like is not None:
                    head.to(device=like.device, dtype=like.dtype)
                head.train(self.training)
        self.heads = nn.ModuleDict(
            {block: nn.ModuleDict({h.unique_id: h for h in entries}) for block, entries in wanted.items()}
        )
        self._rest()

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

    def _rest(self) -> None:
        """Takes gradients from the parameters that no head needs, and gives back the others'."""
        parts = self._behind(self._deepest(self._readers())) if self.heads else []
        unread = {id(p) for part in parts for p in part.parameters()}
        trunk = self._trunk()
        for name in self._resting & trunk.keys():
            trunk[name].requires_grad_(True)
        self._resting = frozenset(n for n, p in trunk.items() if id(p) in unread and p.requires_grad)
        for name in self._resting:
            trunk[name].requires_grad_(False)
