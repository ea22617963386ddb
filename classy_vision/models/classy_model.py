"""The base of all models: a trunk of named blocks, and heads that read any of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys
from typing_extensions import Self

from classy_vision.config import ConfigError, read_config
from classy_vision.heads.classy_head import ClassyHead, build_head
from classy_vision.models.headed_trunk import HeadedTrunk
from classy_vision.models.removed import Removed
from classy_vision.models.taps import leaves, run_tapped, tap
from classy_vision.models.trunk import END, ModelConfig
from classy_vision.registry import Registry
from classy_vision.weights.classy_vision import checkpoint_config, to_native, unpack
from classy_vision.weights.files import WEIGHTS, read_tensors
from classy_vision.weights.key_map import KeyMap
from classy_vision.weights.state import check_fit, head_of


class ClassyModel(HeadedTrunk):
    """A trunk with heads, that can be built from configs and checkpoints and give its state.

    ``model(x)`` gives the end of the trunk where there are no heads, the output of a single
    head, or a dict of outputs by head id. Nothing behind the deepest block that is read runs.

    Args:
        config: the family's configuration, as an object or a mapping.
        options: further values, or all of them; they win.

    Raises:
        ConfigError: a key or value that the family does not take.
    """

    default_num_classes: ClassVar[int | None] = None
    """``num_classes`` where a config has neither that nor heads."""

    execute_heads = Removed("call the model: model(x) gives the heads' outputs")
    head_outputs = Removed("nothing is kept between calls; use what model(x) returns")
    get_block_outputs = Removed("nothing is kept between calls; use model.features(x, blocks)")
    attachable_block_names = Removed("use model.block_names")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "wrapper_cls" in cls.__dict__:
            raise TypeError(
                f"{cls.__name__}.wrapper_cls: models are not wrapped any more; model(x) runs the "
                f"heads itself. Override forward to do something around it"
            )

    def __init__(self, config: ModelConfig | Mapping[str, Any] | None = None, **options: Any) -> None:
        if type(self) is ClassyModel:
            raise TypeError("ClassyModel is abstract: use build_model, a subclass or from_model")
        super().__init__(config, **options)

    # Building

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The model that ``config`` describes, without the heads it lists.

        ``num_classes`` attaches the family's default head to the end of the trunk, where the
        config lists no heads of its own.

        Raises:
            ConfigError: a key or value that the family does not take.
        """
        given = {k: v for k, v in config.items() if k not in ("name", "heads", "num_classes")}
        options = cls.config_class.parse(given, config.get("name", cls.__name__))
        classes = config.get("num_classes", cls.default_num_classes)
        if classes is None or "heads" in config:
            return cls(options)
        head = {"unique_id": "default_head", "num_classes": classes, "fork_block": END}
        head = {**cls.default_head(options), **head}
        build_head(head)  # a wrong value is found before the trunk is made
        model = cls(options)
        _attach(model, [head])
        return model

    @classmethod
    def default_head(cls, config: ModelConfig) -> dict[str, Any]:
        """The head that ``num_classes`` stands for, by its name and options."""
        return {"name": "fully_connected"}

    @staticmethod
    def from_model(
        model: nn.Module,
        blocks: Sequence[str] | Mapping[str, str] = (),
        input_shape: Sequence[int] | None = None,
    ) -> ClassyModel:
        """Any module as a trunk: its submodules named in ``blocks`` are the blocks.

        Args:
            model: takes a batch, gives a tensor.
            blocks: paths of submodules in the order they run ("layer1.0" becomes block
                "layer1-0"), or {block name: path}.
            input_shape: the input without the batch, (3, 224, 224) by default.

        Raises:
            ConfigError: a path that the module does not have.
        """
        return ModelAdapter(model, blocks, input_shape)

    @staticmethod
    def from_checkpoint(checkpoint: Mapping[str, Any] | str | Path) -> ClassyModel:
        """The model that a checkpoint holds.

        Args:
            checkpoint: a checkpoint of the original, its file, or a run folder.

        Raises:
            ConfigError: the file is damaged or unsafe, or does not say which model it is of.
        """
        if isinstance(checkpoint, (str, Path)):
            path = Path(checkpoint)
            if path.is_dir():
                model = build_model(read_config(path / "config.yaml")["model"])
                model.load_state_dict(read_tensors(path / WEIGHTS))
                return model
            checkpoint = read_tensors(path)
        model = build_model(checkpoint_config(checkpoint))
        model.set_classy_state(checkpoint)
        return model

    @property
    def classy_model(self) -> Self:
        """The model itself. In the original: the model behind its wrapper."""
        return self

    # State

    def key_map(self) -> KeyMap | None:
        """The trunk's names in the original's layout; None where they are ours."""
        return None

    def get_classy_state(self, deep_copy: bool = False) -> dict[str, Any]:
        """The state in the original's layout: {"model": {"trunk": ..., "heads": ...}}.

        Tensors are the model's own unless ``deep_copy`` is set.
        """
        key_map = self.key_map()
        trunk: dict[str, Tensor] = {}
        heads: dict[str, dict[str, dict[str, Tensor]]] = {
            block: {head.unique_id: {} for head in entries} for block, entries in self.get_heads().items()
        }
        for key, value in sorted(self.state_dict().items(), key=lambda entry: head_of(entry[0]) or ""):
            if head_of(key) and not (key_map and key_map.to_theirs(key)):
                _, block, head, rest = key.split(".", 3)
                heads[block][head][rest] = value
            else:
                trunk[key] = value
        classy = {"model": {"trunk": key_map.save(trunk) if key_map else trunk, "heads": heads}}
        return copy.deepcopy(classy) if deep_copy else classy

    def set_classy_state(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Loads a classy state, or raises and changes nothing.

        Heads that the state does not hold keep their weights.

        Args:
            state: a classy state or a checkpoint of the original, in any of its layouts.
            strict: False lets trunk keys be missing or left over.

        Raises:
            ConfigError: keys or shapes are not the model's.
        """
        native = self._to_native(state)
        given = {head_of(key) for key in native}
        own = {k: v for k, v in self.state_dict().items() if head_of(k) and head_of(k) not in given}
        self.load_state_dict({**own, **native}, strict)

    def load_head_states(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Loads the heads of a classy state, and nothing else, or raises and changes nothing.

        Raises:
            ConfigError: heads, keys or shapes that are not the model's.
        """
        packed = unpack(state)
        heads = to_native({"trunk": {}, "heads": packed[1] if packed else {}}, None, set())
        trunk = {k: v for k, v in self.state_dict().items() if not head_of(k)}
        self.set_classy_state({**trunk, **heads}, strict)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """As in torch, but all or nothing, and with the original's layouts understood.

        Raises:
            ConfigError: keys or shapes are not the model's; the message names the first few.
        """
        native = self._to_native(state_dict)
        check_fit(self.state_dict(), native, strict, type(self).__name__)
        return super().load_state_dict(native, strict, assign)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Understands the original's layouts also where the model is part of another module."""
        mine = {k: v for k, v in state_dict.items() if k.startswith(prefix)} if prefix else {}
        if mine:
            native = self._to_native({k[len(prefix) :]: v for k, v in mine.items()})
            for key in mine:
                del state_dict[key]
            state_dict.update({prefix + key: value for key, value in native.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _to_native(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return to_native(state, self.key_map(), {k for k in self.state_dict() if not head_of(k)})


MODELS: Registry[ClassyModel] = Registry("model", ClassyModel)
register_model = MODELS.register


def build_model(config: str | Mapping[str, Any], **overrides: Any) -> ClassyModel:
    """The model that ``config`` describes, with its heads.

    Args:
        config: a registered name, or a mapping with ``name``, the family's options, and either
            ``heads`` (each with ``name``, ``unique_id``, ``fork_block`` and its options) or
            ``num_classes``. It is not changed.
        overrides: further entries; they win.

    Raises:
        ConfigError: no such model, head or block, or options that they do not take.
    """
    given = {"name": config} if isinstance(config, str) else dict(config)
    given.update(overrides)
    if "name" not in given:
        raise ConfigError(f"a model config needs a name: {given!r}")
    entry = MODELS[given["name"]]
    heads: Any = given.get("heads") or []
    for head in heads:
        if not isinstance(head, Mapping):
            raise ConfigError(f"heads is a list of mappings, not of {type(head).__name__}: {head!r}")
        if "fork_block" not in head:
            raise ConfigError(f"head config {dict(head)!r}: key 'fork_block' is required")
        build_head(head)  # a wrong head is found before the trunk is made
    model = entry.cls.from_config({**entry.preset, **given})
    _attach(model, heads)
    return model


def _attach(model: ClassyModel, configs: Iterable[Mapping[str, Any]]) -> None:
    heads: dict[str, list[ClassyHead]] = {}
    for config in configs:
        heads.setdefault(config["fork_block"], []).append(build_head(config))
    if heads:
        model.set_heads(heads)


class ModelAdapter(ClassyModel):
    """A module whose forward is its own, made into a trunk: see ``ClassyModel.from_model``.

    Keys of the state dict are the module's with ``model.`` before them, as in the original.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str] | Mapping[str, str] = (),
        input_shape: Sequence[int] | None = None,
    ) -> None:
        shape = tuple(input_shape or (3, 224, 224))
        super().__init__(in_channels=shape[0])
        if not isinstance(model, nn.Module):
            raise TypeError(f"from_model takes a torch.nn.Module, not {type(model).__name__}")
        paths = tap(model, blocks)
        self._input_shape = shape
        self._names = list(paths)
        self.aliases = {path: name for name, path in paths.items() if path != name}
        self.model = model

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._input_shape

    def check_input(self, x: Tensor) -> None:
        """The module checks its input itself."""

    def walk(self, x: Tensor, until: str = END) -> Iterator[tuple[str, Tensor]]:
        features, end = run_tapped(self.model, x, until)
        yield from features.items()
        if end is not None and until == END:
            yield END, end

    def extract_features(self, x: Tensor) -> Tensor:
        """What the module's own ``extract_features`` gives, or the end of the trunk."""
        own = getattr(self.model, "extract_features", None)
        return own(x) if callable(own) else super().extract_features(x)

    def _steps(self) -> list[str]:
        return [*self._names, END]

    def _all_aliases(self) -> Mapping[str, str]:
        return self.aliases

    def _behind(self, step: str) -> list[nn.Module]:
        if step == END:
            return []
        ran: set[nn.Module] = set()
        hooks = [m.register_forward_pre_hook(lambda m, _: ran.add(m)) for m in leaves(self.model)]
        try:
            self.feature_info([step])
        finally:
            for hook in hooks:
                hook.remove()
        return [module for module in leaves(self.model) if module not in ran]
