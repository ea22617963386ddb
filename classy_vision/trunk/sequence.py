"""Trunks whose stem, blocks and tail run one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classy_vision.config import unknown
from classy_vision.layers.recompute import recompute
from classy_vision.trunk.names import END, Names, group_names, name_steps
from classy_vision.trunk.route import Features, Route


class StepRecord(NamedTuple):
    """What a family tells of a step where it adds it. It stands on the module, so that it goes with it.

    Attributes:
        name: of the step.
        after: the step before it; None for the stem.
        channels: of its feature.
    """

    name: str
    after: str | None
    channels: int


class InSequence(Route):
    """The route of a trunk with ``stem``, ``blocks`` and ``tail``."""

    def key(self, trunk: Any) -> tuple[str, ...]:
        return tuple(trunk.blocks)

    def steps(self, trunk: Any) -> Sequence[str]:
        return self._names(trunk).steps if "blocks" in trunk._modules else ()

    def aliases(self, trunk: Any) -> Mapping[str, str]:
        return self._names(trunk).aliases if "blocks" in trunk._modules else {}

    def block_names(self, trunk: Any) -> list[str]:
        groups = group_names(self.steps(trunk), self.aliases(trunk))
        return [name for step, others in groups.items() for name in (step, *others)]

    def find(self, trunk: Any, block: str) -> str:
        steps, kind = self.steps(trunk), type(trunk).__name__
        if block in steps:
            return block
        if block in (aliases := self.aliases(trunk)):
            return aliases[block]
        where = kind if steps else f"{kind} has no blocks: assign stem, blocks and tail, or define forward"
        raise unknown("block", block, self.block_names(trunk), where)

    def walk(self, trunk: Any, x: Tensor, until: str) -> Features:
        if "blocks" not in trunk._modules or (until != END and until not in trunk.blocks):
            until = self.find(trunk, until)
        more = trunk.block_arguments(x)
        x = trunk.stem(x)
        yield "stem", x
        if until == "stem":
            return
        recomputes = trunk.config.gradient_checkpointing and trunk.training and torch.is_grad_enabled()
        for name, block in trunk.blocks.items():
            given = more if more and getattr(block, "takes_arguments", False) else ()
            x = recompute(block, x, *given) if recomputes else block(x, *given)
            yield name, x
            if until == name:
                return
        yield END, trunk.tail(x)

    def run(self, trunk: Any, x: Tensor, until: str) -> Features:
        features: Features = trunk.walk(x, until)
        return features

    def read(self, trunk: Any, x: Tensor, steps: Collection[str]) -> Features:
        return (entry for entry in self.look(trunk, x, steps) if entry[0] in steps)

    def look(self, trunk: Any, x: Tensor, steps: Collection[str]) -> Features:
        return self.run(trunk, x, self.deepest(trunk, steps))

    def end(self, trunk: Any, x: Tensor) -> Tensor:
        return dict(self.read(trunk, x, [END]))[END]

    def path(self, trunk: Any, step: str) -> str:
        return step if step == "stem" else "tail" if step == END else f"blocks.{step}"

    def check_input(self, trunk: Any, x: Any) -> None:
        check_images(x, trunk.config.in_channels, type(trunk).__name__)

    def prepare(self, trunk: Any, steps: Iterable[str]) -> None:
        """Steps in sequence are readable as they are."""

    def check_layouts(self, steps: Iterable[str]) -> None:
        """Channels come where every family has them."""

    def _names(self, trunk: Any) -> Names:
        """Found again when blocks or aliases have changed."""
        names: Names | None = trunk.__dict__.get("_names")
        if names is None or names.blocks != tuple(trunk.blocks) or names.given is not trunk.aliases:
            names = trunk._names = name_steps(trunk.blocks, trunk.aliases, trunk.names_stages)
        return names


SEQUENCE = InSequence()


def is_sequence(trunk: nn.Module) -> bool:
    """Whether ``trunk`` has a stem, blocks and a tail."""
    parts = trunk._modules
    return isinstance(parts.get("blocks"), nn.ModuleDict) and {"stem", "tail"} <= parts.keys()


def tell_step(trunk: Any, name: str, module: nn.Module, channels: int) -> None:
    """Adds the stem, the next block, or the end; see ``Trunk.add_step``."""
    if name == "stem":
        trunk.stem, trunk.blocks = module, nn.ModuleDict()
        before = None
    else:
        before = next(reversed(trunk.blocks._modules), "stem")
        if name == END:
            trunk.tail = module
        else:
            trunk.blocks[name] = module
    module.step_record = StepRecord(name, before, channels)  # type: ignore[assignment]  # kept on the module


def told_channels(trunk: Any) -> Mapping[str, int]:
    """The channels of every step, where the family has told all of them and they run as it said.

    Empty where a step was replaced, added or removed without telling, or where a class has a walk of its own.
    """
    if not trunk.is_sequential or not is_sequence(trunk):
        return {}
    channels: dict[str, int] = {}
    before = None
    steps = (("stem", trunk.stem), *trunk.blocks.items(), (END, trunk.tail))
    for name, module in steps:
        record: StepRecord | None = getattr(module, "step_record", None)
        if record is None or (record.name, record.after) != (name, before):
            return {}
        channels[name], before = record.channels, name
    return channels


def check_images(x: Any, channels: int, kind: str) -> None:
    """Raises where ``x`` is not a batch of images for a ``kind`` of trunk."""
    if isinstance(x, torch.fx.Proxy):
        return
    if not isinstance(x, Tensor):
        raise TypeError(f"the input is a tensor (n, c, h, w), not {type(x).__name__}")
    if x.dim() != 4 or x.shape[1] != channels:
        hint = "; one image is x[None]" if x.dim() == 3 else ""
        if x.dim() == 4 and x.shape[-1] == channels:
            hint = "; channels come second: x.permute(0, 3, 1, 2)"
        raise ValueError(f"{kind} takes images (n, {channels}, h, w), not {tuple(x.shape)}{hint}")
    if not x.is_floating_point():
        raise ValueError(f"images are floating point, not {x.dtype}: normalize them, x.float() / 255")
