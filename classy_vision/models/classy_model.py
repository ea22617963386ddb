"""The base of all models: a trunk of named blocks, and heads that read any of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from typing_extensions import Self

from classy_vision.config import ConfigError, check_nesting, drop_unknown, read_config
from classy_vision.heads.classy_head import ClassyHead, Unknown, build_head, clean_head, is_lenient
from classy_vision.models.hub import Shared
from classy_vision.models.published import read_word, with_published
from classy_vision.registry import Entry, Registry, unknown_model
from classy_vision.removed import ATTRIBUTES, names_gone
from classy_vision.trunk.hooks import check_paths
from classy_vision.trunk.map_layout import MapLayout, find_layouts, read_layout, unclear
from classy_vision.trunk.meta import OnMeta
from classy_vision.trunk.own_forward import OwnForward
from classy_vision.trunk.pretrained import find_source, load_weights
from classy_vision.trunk.trunk import END, ModelConfig
from classy_vision.trunk.use import set_use, take_use, use_of, use_of_run
from classy_vision.weights.classy_vision import checkpoint_config
from classy_vision.weights.files import WEIGHTS, read_tensors
from classy_vision.weights.report import Report


class ClassyModel(Shared, OwnForward):
    """A trunk with heads, made from configs, checkpoints and other modules.

    ``model(x)`` gives the end of the trunk where there are no heads, the output of a single
    head, or a dict of outputs by head id. Nothing behind the deepest block that is read runs.

    Args:
        config: the family's configuration, as an object or a mapping.
        options: further values, or all of them; they win.

    Raises:
        ConfigError: a key or value that the family does not take.
    """

    loaded: Report | None = None
    """What ``build_model`` loaded."""
    preprocessing: Mapping[str, Any] | None = None
    """How a file becomes an input, in keys of ``data`` of a training config; None where nobody said."""
    __jit_unused_properties__: ClassVar = [
        "block_names",
        "classy_model",
        "frozen_until",
        "input_shape",
        "labels",
    ]
    """What ``torch.jit.script`` is to leave alone, as in the original."""
    default_num_classes: ClassVar[int | None] = None
    """``num_classes`` where a config has neither that nor heads."""

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

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES and name not in self.__dict__.get("_modules", ()):
            raise AttributeError(f"{type(self).__name__}.{name} is gone: {ATTRIBUTES[name]}")
        return super().__getattr__(name)

    # Building

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The model that ``config`` describes, without the heads it lists.

        ``num_classes`` attaches the family's default head to the end of the trunk, where the
        config lists no heads of its own.

        Raises:
            ConfigError: a key or value that the family does not take.
        """
        heads = cls.default_heads(config)
        for head in heads:
            build_head(head)  # a wrong value is found before the trunk is made
        model = cls(cls._options(config))
        _attach(model, heads)
        return model

    @classmethod
    def default_heads(cls, config: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The head that ``config`` means by its ``num_classes``, where it lists none."""
        options = cls._options(config)
        classes = config.get("num_classes", cls.default_num_classes)
        if classes is None or config.get("heads") is not None:
            return []
        head = {"unique_id": "default_head", "num_classes": classes}
        return [{"fork_block": END, **cls.default_head(options), **head}]

    @classmethod
    def _options(cls, config: Mapping[str, Any]) -> ModelConfig:
        given = {k: v for k, v in config.items() if k not in MODEL_KEYS}
        return cls.config_class.parse(given, config.get("name", cls.__name__), also=MODEL_KEYS)

    @staticmethod
    def from_model(
        model: nn.Module,
        blocks: Sequence[str] | Mapping[str, str] = (),
        input_shape: Sequence[int] | None = None,
        model_depth: int | None = None,
        layout: MapLayout | Mapping[str, MapLayout] | None = None,
    ) -> ClassyModel:
        """Any module as a trunk: its submodules named in ``blocks`` are the blocks.

        Args:
            model: takes a batch, gives a tensor.
            blocks: paths of submodules in the order in which they run ("layer1.0" becomes block
                "layer1-0"), or {block name: path}. Each gives a map (n, c, h, w), a clip
                (n, c, t, h, w), tokens (n, s, c) or (n, c), and runs once. Maps and clips with
                channels last are seen with channels first: by heads, ``features`` and ``model(x)``.
            input_shape: the input without the batch, (3, 224, 224) by default.
            model_depth: not used; the original took it.
            layout: of maps and clips, "nchw" for channels first or "nhwc" for last, for all blocks or
                by block. By default it is found by a look without data; a module that takes none is
                read as it is.

        Raises:
            ConfigError: a path that the module does not have, or no such layout.
        """
        return ModelAdapter(model, blocks, input_shape, layout)

    @staticmethod
    def from_checkpoint(checkpoint: Mapping[str, Any] | str | Path) -> ClassyModel:
        """The model that a checkpoint holds.

        Args:
            checkpoint: a checkpoint of the original, its file or folder, or a run folder.

        Raises:
            ConfigError: the file is damaged or unsafe, or does not say which model it is of.
        """
        if isinstance(checkpoint, (str, Path)):
            path = Path(checkpoint)
            if (path / "config.yaml").is_file():
                settings = read_config(path / "config.yaml")
                model = build_model(settings.get("model", {}))
                model.load_state_dict(read_tensors(path / WEIGHTS))
                set_use(model, use_of_run(settings))
                return model
            checkpoint = read_tensors(path / "checkpoint.torch" if path.is_dir() else path)
        config = checkpoint_config(checkpoint)
        if config.get("heads"):  # beside them the original ignored it
            config.pop("num_classes", None)
        model = build_model(config, unknown="warn")
        model.set_classy_state(checkpoint)
        return model

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The names of classes in the order of the outputs, by head, where they are known."""
        tasks = use_of(self).tasks
        return {head: tuple(task["classes"]) for head, task in tasks.items() if task.get("classes")}

    @property
    def classy_model(self) -> Self:
        """The model itself. In the original: the model behind its wrapper."""
        return self


MODEL_KEYS = ("name", "heads", "num_classes", "weights", "preprocessing", "tasks")
"""Keys of a model config that are not the family's."""
MODELS: Registry[ClassyModel] = Registry("model", ClassyModel, unknown_model)
register_model = MODELS.register


def build_model(config: str | Mapping[str, Any], *, unknown: Unknown = None, **overrides: Any) -> ClassyModel:
    """The model that ``config`` describes, with its heads.

    Args:
        config: a registered name, the path of a config file, a run folder or a folder of ``save_pretrained``
            (``weights=True`` loads the weights of a folder), or a mapping with ``name``, the family's
            options, and either ``heads`` (each with ``name``, ``unique_id``, ``fork_block`` and its options) or
            ``num_classes``. It is not changed. ``weights`` are loaded: what ``load_weights``
            takes, or a mapping of its arguments. A published classifier goes into a head of as
            many classes at the end of the trunk; other heads are new. The name of published
            weights stands for their network, with the options that their numbers need:
            ``build_model("timm/resnet50.a1_in1k", weights=True)`` loads them too.
            ``preprocessing`` and ``tasks`` say how images become inputs and what heads mean, as
            in a folder of ``save_pretrained``.
        unknown: "warn" leaves out keys that mean nothing, "error" refuses them; by default a config
            in the original's style, one with heads that each say their ``in_plane``, gets warnings.
        overrides: further entries; they win.

    Raises:
        ConfigError: no such model, head, block or weights, or options that they do not take.
    """
    if not isinstance(config, (str, Mapping)):
        raise ConfigError(f"build_model takes a name or a mapping, not {type(config).__name__}")
    check_nesting([config, overrides], "the model config")
    named = read_word(config, MODELS, overrides) if isinstance(config, str) else config
    if named.get("weights") and overrides.get("weights") is True:
        overrides = {key: value for key, value in overrides.items() if key != "weights"}
    given = {**named, **overrides}
    if "name" not in given:
        raise ConfigError(f"a model config needs a name: {given!r}")
    given, weights = with_published(given, MODELS)
    use = take_use(given)
    entry = MODELS[given["name"]]
    heads = given.get("heads")
    if not isinstance(heads, (list, tuple, type(None))):
        raise ConfigError(f"heads = {heads!r}: a list of mappings is needed")
    for head in heads or ():
        if not isinstance(head, Mapping):
            raise ConfigError(f"heads is a list of mappings, not of {type(head).__name__}: {head!r}")
        if "fork_block" not in head:
            raise ConfigError(f"head config {dict(head)!r}: key 'fork_block' is required")
        if not isinstance(head["fork_block"], str):
            raise ConfigError(f"fork_block = {head['fork_block']!r}: the name of one block is needed")
    lenient = is_lenient(heads or (), unknown)
    if heads and given.get("num_classes") is not None and not lenient:
        raise ConfigError(
            f"num_classes = {given['num_classes']!r} beside heads means nothing: write num_classes in the head "
            f"that it is of, or leave heads out for the default head"
        )
    if unknown != "error":
        given = _without_unknown(entry, given, lenient)
    if heads:
        given["heads"] = heads = list(map(partial(clean_head, lenient=lenient), heads))
        for head in heads:
            build_head(head, "error")  # a wrong head is found before the trunk is made
    config = {**entry.preset, **given}
    if weights is None:
        model = entry.cls.from_config(config)
        _attach(model, heads or ())
        set_use(model, use)
        return model
    weights["source"] = find_source(weights["source"])  # before any work is done
    with OnMeta():
        model = entry.cls.from_config({**config, "heads": []})
        wanted = entry.cls.default_heads(config) if heads is None else heads
        _attach(model, wanted)
    model.loaded = load_weights(model, **{"skip_heads": "unfit", **weights})
    new = {str(head["unique_id"]): head for head in wanted if str(head["unique_id"]) in model.loaded.kept}
    if new:
        made = {name: build_head(head, "error") for name, head in new.items()}
        heads_now = model.get_heads().items()
        model.set_heads({block: [made.get(h.unique_id, h) for h in entries] for block, entries in heads_now})
    set_use(model, use)
    return model


def _without_unknown(entry: Entry[ClassyModel], given: Mapping[str, Any], lenient: bool) -> dict[str, Any]:
    """A model config without keys that mean nothing, where that is allowed."""
    cls = entry.cls
    if cls.from_config.__func__ is not ClassyModel.from_config.__func__:  # type: ignore[attr-defined]
        return dict(given)  # a user's model reads what it likes
    if entry.is_preset and not lenient:
        return dict(given)
    return drop_unknown(
        given, (*MODEL_KEYS, *cls.config_class.known_keys()), entry.name, only_strays=not lenient
    )


def _attach(model: ClassyModel, configs: Iterable[Mapping[str, Any]]) -> None:
    heads: dict[str, list[ClassyHead]] = {}
    for config in configs:
        heads.setdefault(config["fork_block"], []).append(build_head(config, "error"))
    if heads:
        model.set_heads(heads)


TOKENS_AND_POSITIONS = frozenset(
    (
        *("class_token", "cls_token", "dist_token", "distillation_token", "mask_token"),
        *("reg_token", "register_tokens", "pos_embed", "pos_embedding", "position_embedding"),
        *("position_embeddings", "positions", "relative_position_bias_table", "layer_scale"),
    )
)
"""Names of parameters that weight decay spares in modules of others: torchvision, timm, transformers."""


class ModelAdapter(ClassyModel):
    """A module whose forward is its own, made into a trunk: see ``ClassyModel.from_model``.

    Keys of the state dict are the module's with ``model.`` before them, as in the original.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str] | Mapping[str, str] = (),
        input_shape: Sequence[int] | None = None,
        layout: MapLayout | Mapping[str, MapLayout] | None = None,
    ) -> None:
        shape = tuple(input_shape or (3, 224, 224))
        super().__init__(in_channels=shape[0])
        if not isinstance(model, nn.Module):
            raise TypeError(f"from_model takes a torch.nn.Module, not {type(model).__name__}")
        self._names = check_paths(model, blocks)
        self._input_shape = shape
        self.aliases = {path: name for name, path in self._names.items() if path != name}
        self.model = model
        self._layouts: dict[str, MapLayout | None] = {}
        self._given = read_layout(layout, self._steps(), self.aliases)
        self._prepare(self._steps())

    def forward(self, x: Any) -> Any:
        """What the module gives, or the outputs of the heads."""
        return self.model(x)

    def _prepare(self, steps: Iterable[str]) -> None:
        new = [step for step in steps if step not in self._tapped]
        super()._prepare(new)
        if new:
            self._find_layouts(new)

    def _find_layouts(self, steps: Sequence[str]) -> None:
        given = {step: layout for step, layout in self._given.items() if step in steps}
        found = {} if len(given) == len(steps) else find_layouts(self, self.model, steps, self._input_shape)
        self._layouts = {**self._layouts, **found, **given}
        self._channels_last = frozenset(step for step, value in self._layouts.items() if value == "nhwc")

    def _check_layouts(self, steps: Iterable[str]) -> None:
        for step in steps:
            if step in self._layouts and self._layouts[step] is None:
                raise unclear(step)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._input_shape

    def no_weight_decay(self) -> set[str]:
        """What the module, or any part of it, names by a method of the same name, as timm's do; and
        tokens and positions that go by the usual names."""
        found = {
            name for name, _ in self.model.named_parameters() if name.rpartition(".")[2] in TOKENS_AND_POSITIONS
        }
        for path, part in self.model.named_modules():
            named = getattr(part, "no_weight_decay", None)
            if callable(named):
                found |= {f"{path}.{name}" if path else name for name in named()}
        return {f"model.{name}" for name in found}

    def extract_features(self, x: Tensor) -> Tensor:
        """What the module's own ``extract_features`` gives, or the end of the trunk."""
        own = getattr(self.model, "extract_features", None)
        return own(x) if callable(own) else super().extract_features(x)

    def _body(self) -> nn.Module:
        return self.model

    def _is_open(self) -> bool:
        return not self._names

    def _places(self) -> dict[str, str]:
        return self._names or super()._places()

    def _steps(self) -> list[str]:
        return [*self._names, END] if self._names else super()._steps()

    def _all_aliases(self) -> Mapping[str, str]:
        return self.aliases if self._names else super()._all_aliases()

    def _path_of(self, step: str) -> str:
        paths = {name: path for path, name in self.aliases.items()}
        return "" if step == END else f"model.{paths.get(step, step)}"


if not TYPE_CHECKING:
    __getattr__ = names_gone(__name__)
