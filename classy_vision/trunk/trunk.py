"""A trunk: a sequence of named blocks that turns an input into features."""

from __future__ import annotations

import operator
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from classy_vision.config import Config, ConfigError, PositiveInt, Probability, unknown
from classy_vision.layers.recompute import recompute
from classy_vision.trunk.features import FeatureInfo, trace

END = "trunk_output"
"""The name of the end of every trunk."""


class ModelConfig(Config):
    """What every family can be told.

    Attributes:
        in_channels: channels of the input.
        stochastic_depth: rate at which the last residual branch is dropped in training. The rates
            of the others rise linearly to it, from 0 for the first, as in timm; those of
            EfficientNet are its own.
        gradient_checkpointing: recompute blocks in the backward pass instead of keeping their
            activations.
    """

    in_channels: PositiveInt = 3
    stochastic_depth: Probability = 0.0
    gradient_checkpointing: bool = False


class Trunk(nn.Module):
    """A stem, named blocks and a tail, walked one after the other.

    A family assigns ``stem``, ``blocks`` (an ordered ``nn.ModuleDict``) and ``tail``. A block
    must not change its input in place: a head may read it.

    Args:
        config: the family's configuration, as an object or a mapping.
        options: further values, or all of them; they win.

    Raises:
        ConfigError: a key or value that the family does not take.
    """

    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    aliases: Mapping[str, str] = {}
    """Further names for blocks, those of the original."""

    stem: nn.Module
    blocks: nn.ModuleDict
    tail: nn.Module

    def __init__(self, config: ModelConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        if isinstance(config, self.config_class) and not options:
            self.config = config
            return
        given = config.model_dump(exclude_unset=True) if isinstance(config, ModelConfig) else config
        if not isinstance(given or {}, Mapping):
            raise ConfigError(f"{type(self).__name__} takes a config or keyword arguments, not {config!r}")
        self.config = self.config_class.parse({**(given or {}), **options}, type(self).__name__)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module) and hasattr(type(self), name):
            raise TypeError(
                f"{type(self).__name__}.{name} is taken by the base class; name the module otherwise"
            )
        super().__setattr__(name, value)

    def declare_chain(self, channels: Mapping[str, int]) -> None:
        """For families, at the end of construction: what their steps give, so that nobody has to look.

        Holds while the steps are these modules, and each reads all of its parameters and the one
        before it.

        Args:
            channels: of the stem, the blocks and ``END``.
        """
        self._chain = (self._parts(), dict(channels))

    # Running

    def walk(self, x: Tensor, until: str = END) -> Iterator[tuple[str, Tensor]]:
        """Runs the trunk step by step: (name, feature) of the stem, each block and the end.

        The only place where a trunk runs. A backbone that is no chain overrides it.

        Args:
            x: the input batch.
            until: the last block to run.
        """
        if "blocks" not in self._modules or (until != END and until not in self.blocks):
            until = self._step(until)
        x = self.stem(x)
        yield "stem", x
        if until == "stem":
            return
        for name, block in self.blocks.items():
            x = self._run(block, x)
            yield name, x
            if until == name:
                return
        yield END, self.tail(x)

    def features(self, x: Tensor, blocks: Sequence[str]) -> dict[str, Tensor]:
        """The features of ``blocks`` by name; nothing behind the deepest of them runs.

        Raises:
            UnknownNameError: a name that is not in ``block_names``.
            ValueError: the input's rank or channels are not what the trunk takes.
        """
        if isinstance(blocks, str):
            raise ConfigError(f"features takes a list of blocks: [{blocks!r}]")
        steps = {block: self._step(block) for block in blocks}
        self.check_input(x)
        self._prepare(steps.values())
        found = dict(self._read(x, set(steps.values()))) if steps else {}
        return {block: found[step] for block, step in steps.items()}

    def extract_features(self, x: Tensor) -> Tensor:
        """The end of the trunk, whatever heads there are."""
        return self.features(x, [END])[END]

    def check_input(self, x: Tensor) -> None:
        """Raises where ``x`` is no batch of what the trunk takes.

        Raises:
            TypeError: it is no tensor.
            ValueError: its rank, channels or type are others.
        """
        if isinstance(x, torch.fx.Proxy):
            return
        if not isinstance(x, Tensor):
            raise TypeError(f"the input is a tensor (n, c, h, w), not {type(x).__name__}")
        channels = self.config.in_channels
        if x.dim() != 4 or x.shape[1] != channels:
            hint = "; one image is x[None]" if x.dim() == 3 else ""
            if x.dim() == 4 and x.shape[-1] == channels:
                hint = "; channels come second: x.permute(0, 3, 1, 2)"
            raise ValueError(
                f"{type(self).__name__} takes images (n, {channels}, h, w), not {tuple(x.shape)}{hint}"
            )
        if not x.is_floating_point():
            raise ValueError(f"images are floating point, not {x.dtype}: normalize them, x.float() / 255")

    def _read(self, x: Tensor, steps: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """The features of ``steps``, in the order in which they run; nothing behind the deepest runs."""
        return ((name, feature) for name, feature in self.walk(x, self._deepest(steps)) if name in steps)

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.config.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return recompute(block, x)
        return block(x)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay would only pull to zero: learned tokens and positions.

        Norms, biases and other vectors, such as LayerScale's, need no mention: no optimizer of
        ``classy_vision.train`` decays them.
        """
        return set()

    # Blocks

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The usual input without the batch: (c, h, w). Other sizes work as well."""
        return (self.config.in_channels, 224, 224)

    @property
    def block_names(self) -> list[str]:
        """Every name that a head and ``features`` accept, in the order in which they run."""
        names: dict[str, list[str]] = {step: [step] for step in self._steps()}
        for alias, step in self._all_aliases().items():
            names[step].append(alias)
        return [name for group in names.values() for name in group]

    def feature_info(
        self, blocks: Iterable[str] | None = None, input_shape: Sequence[int] | None = None
    ) -> dict[str, FeatureInfo]:
        """Channels, stride and shape of features, found on the meta device.

        Args:
            blocks: names of blocks; by default every step: the stem, each block, the end.
            input_shape: another input than ``model.input_shape``, without the batch.

        Raises:
            ConfigError: no such block, or the trunk cannot take an input of that shape.
        """
        if isinstance(blocks, str):
            raise ConfigError(f"feature_info takes a list of blocks: [{blocks!r}]")
        steps = {block: self._step(block) for block in (self._steps() if blocks is None else blocks)}
        if not steps:
            return {}
        self._prepare(steps.values())
        self._check_layouts(steps.values())
        traced = trace(self, tuple(input_shape or self.input_shape), self._extent(set(steps.values())))
        return {block: traced.info(step) for block, step in steps.items()}

    def _known_channels(self) -> Mapping[str, int]:
        """The channels of every step, without a look; none where the family has not told."""
        parts, channels = self.__dict__.get("_chain", ((), {}))
        if not parts or not type(self).walk.__module__.startswith("classy_vision."):
            return {}
        now = self._parts()
        return channels if len(now) == len(parts) and all(map(operator.is_, parts, now)) else {}

    def _prepare(self, steps: Iterable[str]) -> None:
        """Makes steps readable, where that takes more than to walk to them."""

    def _check_layouts(self, steps: Iterable[str]) -> None:
        """Raises where it cannot be told which axis of a step's feature holds channels."""

    def _parts(self) -> tuple[nn.Module, ...]:
        return (self.stem, *self.blocks.values(), self.tail)

    def _steps(self) -> list[str]:
        return ["stem", *self.blocks, END] if "blocks" in self._modules else []

    def _all_aliases(self) -> Mapping[str, str]:
        """The original's names: those of the family, and of a stage, ``block3`` for its end."""
        steps = self._steps()
        stages = {name.rpartition("-")[0]: name for name in steps if "-" in name}
        return {alias: step for alias, step in {**stages, **self.aliases}.items() if alias not in steps}

    def _step(self, block: str) -> str:
        """The step of the walk that ``block`` names."""
        step = block if block in self._steps() else self._all_aliases().get(block)
        if step is None and not self._steps():
            raise unknown(
                "block",
                block,
                [],
                f"{type(self).__name__} has no blocks: assign stem, blocks and tail, or define forward",
            )
        if step is None:
            raise unknown("block", block, self.block_names, type(self).__name__)
        return step

    def _extent(self, steps: Collection[str]) -> str | Collection[str]:
        """What a walk without data reads for the sake of ``steps``: all up to the deepest."""
        return self._deepest(steps)

    def _deepest(self, steps: Container[str]) -> str:
        return [step for step in self._steps() if step in steps][-1]
