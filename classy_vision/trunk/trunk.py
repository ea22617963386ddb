"""A trunk: a sequence of named blocks that turns an input into features, with heads on any of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch.fx
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys
from typing_extensions import Self

from classy_vision.config import Config, ConfigError, PositiveInt, Probability
from classy_vision.heads.classy_head import ClassyHead, TokenLayout
from classy_vision.heads.published import published_heads
from classy_vision.trunk.features import FeatureInfo, Trace, tokens_to_map, trace
from classy_vision.trunk.heads_on_blocks import (
    NO_HEADS,
    Plan,
    WithHeads,
    attach_heads,
    join_outputs,
    look_again,
    plan_heads,
    run_heads,
)
from classy_vision.trunk.names import END, group_names, split_place
from classy_vision.trunk.own_forward import ByHooks, is_own_name, with_heads
from classy_vision.trunk.route import Route
from classy_vision.trunk.sequence import SEQUENCE, is_sequence, tell_step
from classy_vision.trunk.state import load_classy, load_heads, load_trunk, load_whole, rename_within, to_classy
from classy_vision.trunk.training import Training, find_layers, freeze_until, set_gradients
from classy_vision.weights.fitting import Fitting
from classy_vision.weights.key_map import KeyMap
from classy_vision.weights.layout import Layouts
from classy_vision.weights.shapes import FamilyShapes

__all__ = ["END", "ModelConfig", "Trunk"]

torch.fx.wrap("tokens_to_map")


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
    """Named blocks, and any number of heads on them: ``heads[block][id]``.

    A family adds a stem, blocks and a tail, which run one after the other; a class that defines ``forward``
    has every submodule as a block. A head's input is a local variable of the forward pass, so that is where
    the head runs. A block must not change its input in place: a head may read it.

    Args:
        config: the family's configuration, as an object or a mapping.
        options: further values, or all of them; they win.

    Raises:
        ConfigError: a key or value that the family does not take.
    """

    # What a family says

    config_class: ClassVar[type[ModelConfig]] = ModelConfig
    aliases: Mapping[str, str] = {}
    """Further names for steps, those of the original."""
    names_stages: ClassVar[bool] = True
    """Whether ``block3`` is another name for the last of ``block3-0``, ``block3-1``, …."""
    is_sequential: ClassVar[bool] = True
    """Whether ``walk`` gives what the steps' modules give, one after the other. A class that defines ``walk``
    says so itself; otherwise its features are looked at."""
    ends_of_layers: ClassVar[tuple[str, ...]] = (END,)
    """The steps that belong to the layer before them, as a last norm does; see ``parameter_layers``."""
    layouts: ClassVar[Layouts] = {}
    """How other libraries name the family's weights, by library."""
    shapes: ClassVar[FamilyShapes | None] = None
    """How the family's configs are read from the shapes of tensors; None if they cannot be."""
    optional_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that some models of the family have and others do not."""
    classy_version: ClassVar[float | None] = None
    """What the original writes into the family's states as "version"."""

    stem: nn.Module
    blocks: nn.ModuleDict
    tail: nn.Module
    heads: nn.ModuleDict

    _forward_is_own: ClassVar[bool] = False
    _runs_heads: ClassVar[bool] = False
    """Whether a class's own forward calls the one that runs the heads, which is so of ours."""
    _own_route: ByHooks | None = None

    @classmethod
    def default_head(cls, config: ModelConfig) -> dict[str, Any]:
        """The head that ``num_classes`` stands for, by its name and options."""
        return {"name": "fully_connected"}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The usual input without the batch: (c, h, w). Other sizes work as well."""
        return (self.config.in_channels, 224, 224)

    def check_input(self, x: Tensor) -> None:
        """Raises where ``x`` is not a batch of what the trunk takes.

        Raises:
            TypeError: it is not a tensor.
            ValueError: its rank, channels or type are others.
        """
        self._route().check_input(self, x)

    def fit(self, native: dict[str, Any], fitting: Fitting) -> dict[str, Any]:
        """Makes weights by our names fit this model, where the family knows how: positions, kernels.

        Args:
            native: by our names.
            fitting: how, where the caller has a choice; what was done is noted there.
        """
        return native

    def key_map(self) -> KeyMap | None:
        """The trunk's names in the original's layout; None where they are ours."""
        layout = self.layouts.get("classy_vision")
        return layout.key_map("ClassyVision", self.config, ()) if layout else None

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay would only pull to zero: learned tokens and positions.

        Norms, biases and other vectors, such as LayerScale's, need no mention: no optimizer of
        ``classy_vision.train`` decays them.
        """
        return set()

    def parameter_layers(self) -> dict[str, int]:
        """The layer of each parameter by name: 0 for the stem, 1 for the first block, and so on.

        What follows the blocks, such as a last norm, belongs to the last one. Heads are a layer of their own,
        the highest. Learning rates that decay from layer to layer go by these numbers, which are timm's for
        the families that timm has.
        """
        return find_layers(self)

    def block_arguments(self, x: Tensor) -> tuple[Tensor, ...]:
        """What blocks with ``takes_arguments`` get beside a feature, made of the trunk's input."""
        return ()

    def token_layout(self, step: str) -> TokenLayout | None:
        """How the tokens of a step stand; None where its feature is a map, a clip or a vector."""
        return None

    def head_input(self, head: ClassyHead, step: str, feature: Tensor, x: Tensor) -> Tensor:
        """What a head reads of a step: the feature, or the map of its patches where the head needs maps.

        Args:
            head: reads the step.
            step: the stem, a block, or the end.
            feature: of the step.
            x: the trunk's input.
        """
        if not head.reads_maps:
            return feature
        tokens = self.token_layout(step) or TokenLayout()
        return tokens_to_map(feature, tokens.prefix, x.shape[-2:], head.reads_token, tokens.patch)

    def modules_for_heads(self) -> set[str]:
        """Names of modules that heads read features through, though no feature that they read needs them."""
        return set()

    # Construction

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "walk" in cls.__dict__ and "is_sequential" not in cls.__dict__:
            cls.is_sequential = False
        if "forward" in cls.__dict__ and not cls._runs_heads:
            cls._forward_is_own = True
            cls.forward = with_heads(cls.__dict__["forward"])  # type: ignore[method-assign]  # wrapped once

    def __init__(self, config: ModelConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        super().__init__()
        self.config = self._read_config(config, options)
        self.heads = nn.ModuleDict()
        self._plan: Plan = NO_HEADS
        self._training_state = Training()
        self._own_route = ByHooks() if self._forward_is_own else None

    @classmethod
    def _read_config(
        cls, config: ModelConfig | Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> ModelConfig:
        if isinstance(config, cls.config_class) and not options:
            return config
        given = config.model_dump(exclude_unset=True) if isinstance(config, ModelConfig) else config
        if not isinstance(given or {}, Mapping):
            raise ConfigError(f"{cls.__name__} takes a config or keyword arguments, not {config!r}")
        return cls.config_class.parse({**(given or {}), **options}, cls.__name__)

    def add_step(self, name: str, module: nn.Module, channels: int) -> None:
        """Adds a step where a family builds it: the stem, then each block, then the end.

        Steps that are told so run one after the other, each reads all of its parameters, and heads get
        their width without a look. Modules that are assigned to ``stem``, ``blocks`` and ``tail`` work as well.

        Args:
            name: "stem", the name of a block, or ``END``.
            module: what runs.
            channels: of its feature.
        """
        tell_step(self, name, module, channels)

    def __setattr__(self, name: str, value: Any) -> None:
        """Keeps our names ours; the modules of an author's forward may hide methods."""
        if name == "heads" and not isinstance(value, nn.ModuleDict):
            raise TypeError(f"{type(self).__name__}.heads holds what set_heads attaches; name yours otherwise")
        if name in self.__dict__.get("_modules", ()):
            self.__dict__.pop(name, None)
        is_taken = isinstance(value, nn.Module) and hasattr(type(self), name)
        if is_taken and not is_own_name(self, name):
            raise TypeError(
                f"{type(self).__name__}.{name} is taken by the base class; name the module otherwise"
            )
        super().__setattr__(name, value)
        if is_taken:
            self.__dict__[name] = value  # found before the method is

    def __delattr__(self, name: str) -> None:
        if name in self._modules:
            self.__dict__.pop(name, None)
        super().__delattr__(name)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        if is_own_name(self, name):
            setattr(self, name, module)
        else:
            super().add_module(name, module)

    # Running

    def forward(self, x: Tensor) -> Any:
        """The trunk's output, the output of the only head, or a dict of outputs by head id.

        Raises:
            ValueError: the input's rank or channels are not what the trunk takes.
        """
        heads = self.heads  # this call's: another thread may attach others meanwhile
        self.check_input(x)
        end, found = x, {}
        for _, feature, outputs in self._run_with(heads, x):
            for head, output in outputs:
                found[head] = output
            end = feature
        return join_outputs(heads, found) if heads else end

    def walk(self, x: Tensor, until: str = END) -> Iterator[tuple[str, Tensor]]:
        """Runs the trunk step by step: (name, feature) of the stem, each block and the end.

        The only place where a trunk runs. A backbone whose blocks do not follow one another defines it anew.

        Args:
            x: the input batch.
            until: the last block to run.
        """
        return self._route().walk(self, x, until)

    def steps(self, x: Tensor, until: str | None = None) -> WithHeads:
        """Runs the trunk and its heads step by step: (name, feature, outputs of the heads there).

        Outputs are pairs (head id, output), and a head runs when its pair is asked for.

        Args:
            x: the input batch.
            until: the last block to run; by default where ``model(x)`` stops.
        """
        return self._run_with(self.heads, x, until)

    def features(self, x: Tensor, blocks: Sequence[str]) -> dict[str, Tensor]:
        """The features of ``blocks`` by name; nothing runs after the deepest of them.

        Raises:
            UnknownNameError: a name that is not in ``block_names``.
            ValueError: the input's rank or channels are not what the trunk takes.
        """
        if isinstance(blocks, str):
            raise ConfigError(f"features takes a list of blocks: [{blocks!r}]")
        steps = {block: self._step(block) for block in blocks}
        self.check_input(x)
        found = dict(self._route().read(self, x, set(steps.values()))) if steps else {}
        return {block: found[step] for block, step in steps.items()}

    def extract_features(self, x: Tensor) -> Tensor:
        """The end of the trunk, whatever heads there are."""
        self.check_input(x)
        return self._route().end(self, x)

    def _run_with(self, heads: nn.ModuleDict, x: Tensor, until: str | None = None) -> WithHeads:
        plan = plan_heads(self, heads)
        return run_heads(self, x, self._route().run(self, x, until or plan.until), heads, plan)

    def _route(self) -> Route:
        """How the trunk is run: its parts one after the other, or its author's forward."""
        return SEQUENCE if self._own_route is None or is_sequence(self) else self._own_route

    # Blocks

    @property
    def block_names(self) -> list[str]:
        """Every name that a head and ``features`` accept, in the order in which they run."""
        return self._route().block_names(self)

    def block_aliases(self) -> dict[str, list[str]]:
        """The further names of every step, by step, in the order in which steps run."""
        return group_names(self._steps(), self._route().aliases(self))

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
        self._route().prepare(self, steps.values())
        self._route().check_layouts(steps.values())
        traced = trace(self, tuple(input_shape or self.input_shape), set(steps.values()))
        return {block: traced.info(step) for block, step in steps.items()}

    def hooked_modules(self) -> dict[str, nn.Module] | None:
        """The modules that hooks read, by block, where the forward is its author's; None for other trunks."""
        route = self._route()
        return route.modules(self) if isinstance(route, ByHooks) else None

    def _steps(self) -> Sequence[str]:
        return self._route().steps(self)

    def _step(self, block: str) -> str:
        """The step that ``block`` names."""
        return self._route().find(self, block)

    def _deepest(self, steps: Collection[str]) -> str:
        return self._route().deepest(self, steps)

    # Heads

    def set_heads(
        self, heads: Mapping[str | tuple[str, ...], Iterable[ClassyHead]] | Mapping[str, Iterable[ClassyHead]]
    ) -> None:
        """Replaces all heads, or raises and changes nothing.

        Heads take the model's device, type and mode; those without ``in_plane`` get it from
        their block. Parameters that no head depends on get ``requires_grad=False`` until one
        does, unless ``train_all`` was called: make optimizers afterwards.

        Args:
            heads: {block: heads}, or {(block, block, ...): heads} for heads that read several, whose
                features they get in that order.

        Raises:
            UnknownNameError: no such block.
            ConfigError: two heads of one id, a head whose ``in_plane`` is not the block's, or one that cannot
                read what its blocks give.
        """
        attach_heads(self, heads)

    def get_heads(self) -> dict[str, list[ClassyHead]]:
        """The heads by block; those that read several by their names, joined: "block2+block3"."""
        return {block: list(heads.values()) for block, heads in self.heads.items()}  # type: ignore[operator]  # modules of a ModuleDict

    def clear_heads(self) -> None:
        """Removes all heads; the trunk's parameters and keys stay as they are."""
        self.set_heads({})

    def head_steps(self) -> set[str]:
        """The steps that heads read."""
        return {self._step(block) for place in self.heads for block in split_place(place)}

    # What trains

    @property
    def frozen_until(self) -> str | None:
        """The last block that ``freeze`` keeps out of training; None where nothing is frozen."""
        return self._training_state.frozen_until

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
        freeze_until(self, None if until is None else self._step(until))
        return self

    def unfreeze(self) -> Self:
        """Ends ``freeze``: what it kept out of training takes part again."""
        return self.freeze(None)

    def train_all(self) -> Self:
        """Lets all parameters train, also those that no head depends on, for losses on features.

        Holds until ``requires_grad_`` is called. What is frozen stays frozen. Training on several
        processes then needs losses that depend on every block, or ``find_unused_parameters``.
        """
        set_gradients(self, True, train_all=True)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As in torch, whole or not at all, but that two kinds of parameters stay out of training: those
        that ``freeze`` holds, and those that no head depends on (see ``train_all``)."""
        set_gradients(self, requires_grad, train_all=False)
        return self

    def train(self, mode: bool = True) -> Self:
        """As in torch, whole or not at all, but that what is frozen stays in evaluation."""
        before = [(module, module.training) for module in self.modules()]
        try:
            super().train(mode)
            if frozen := self._training_state.in_evaluation:
                for name, module in self.named_modules():
                    module.training = module.training and name not in frozen
        except BaseException:
            for module, was_training in before:
                module.training = was_training
            raise
        return self

    def _look(self) -> Trace | None:
        return look_again(self)

    # State

    def foreign_key_maps(self) -> dict[str, KeyMap]:
        """The names of other libraries, by library; those of the head at the end begin with ``head``."""
        blocks = list(self.blocks) if "blocks" in self._modules else []
        layouts = {name: layout for name, layout in self.layouts.items() if name != "classy_vision"}
        return {
            name: layout.key_map(name, self.config, blocks, published_heads(self.get_heads(), name))
            for name, layout in layouts.items()
        }

    def get_classy_state(self, deep_copy: bool = False) -> dict[str, Any]:
        """The state in the original's layout: {"model": {"trunk": ..., "heads": ...}}.

        Tensors are the model's own unless ``deep_copy`` is set.
        """
        return to_classy(self, deep_copy)

    def set_classy_state(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Loads a classy state, or raises and changes nothing.

        Heads that the state does not hold keep their weights.

        Args:
            state: a classy state or a checkpoint of the original, in any of its layouts.
            strict: False lets trunk keys be missing or left over.

        Raises:
            ConfigError: keys or shapes are not the model's.
        """
        load_classy(self, state, strict)

    def load_head_states(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Loads the heads of a classy state, and nothing else, or raises and changes nothing.

        Raises:
            ConfigError: heads, keys or shapes that are not the model's.
        """
        load_heads(self, state, strict)

    def load_trunk_state(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Loads the trunk of a state, whatever heads it holds, or raises and changes nothing.

        Raises:
            ConfigError: keys or shapes that are not the trunk's.
        """
        load_trunk(self, state, strict)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """As in torch, but all or nothing, and with the original's layouts understood.

        Also where the memory does not suffice or an interrupt comes while numbers are copied: all are put
        back then. For that a copy of the model's numbers is held meanwhile, on the CPU where its device
        has no memory left for it. Parameters stay the same objects in the same memory, unless ``assign``
        is set.

        Raises:
            ConfigError: keys or shapes are not the model's; the message names the first few.
        """
        keys: _IncompatibleKeys = load_whole(self, state_dict, strict, assign, super().load_state_dict)
        return keys

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Understands the original's layouts also where the model is part of another module."""
        rename_within(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)
