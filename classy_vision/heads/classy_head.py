"""The base of all heads, and how they are named and built."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn
from typing_extensions import Self

from classy_vision import config as configs
from classy_vision.config import ConfigError, config_of, drop_unknown
from classy_vision.heads.published import load_published
from classy_vision.layers.activation import activation_name
from classy_vision.registry import Registry
from classy_vision.weights.layout import Layout

Unknown = Literal["warn", "error"] | None
"""What is done about keys that mean nothing."""
_RESERVED = frozenset(dir(nn.ModuleDict()))  # names that a module cannot give to a child


class TokenLayout(NamedTuple):
    """How tokens (n, s, c) stand.

    Attributes:
        prefix: how many come before the patches: class token, distillation token, registers.
        has_class_token: whether the first of them is a class token.
        of_clip: whether the patches are of several frames, so that they are not a map (c, h, w).
        patch: height and width of a patch in pixels, where they are known.
    """

    prefix: int = 0
    has_class_token: bool = False
    of_clip: bool = False
    patch: int | None = None


class Source(NamedTuple):
    """A block that a head reads.

    Attributes:
        block: its name.
        channels: of its feature, where they are known.
        stride: input pixels per position of its map; told to heads with ``needs_strides``.
        tokens: how they stand; None where the feature has none.
        shape: of its feature without the batch, for the trunk's usual input; told as ``stride`` is.
    """

    block: str
    channels: int | None = None
    stride: int | None = None
    tokens: TokenLayout | None = None
    shape: tuple[int, ...] | None = None


class ClassyHead(nn.Module):
    """Turns the feature of a block, or of several, into a prediction.

    A head never sees the model: its inputs are the tensors of the blocks that it reads, in their order. A
    subclass with a typed constructor can be built from configs without further code. One that reads
    several blocks sets ``max_blocks``; its ``build`` and ``forward`` take an argument for each of them.

    Args:
        unique_id: the head's name in the model and in its outputs; the class name by default.
        num_classes: the size of the prediction; None if the head gives features.

    Raises:
        ConfigError: the name cannot be used.
    """

    config: Mapping[str, Any]
    """The options it was made with, as JSON values; see ``to_config``."""
    in_plane: int | None = None
    """Channels of the feature it reads, if its layers depend on them."""
    in_planes: tuple[int, ...] | None = None
    """The same, of a head that can read several blocks."""
    max_blocks: int | None = 1
    """How many blocks it can read; None for any number."""
    reads_maps: bool = False
    """Whether it reads maps (n, c, h, w) alone; from a vision transformer it gets those of the patches."""
    reads_token: bool = False
    """Whether such maps have the class token after the channels of every patch: (n, 2 c, h, w)."""
    needs_strides: ClassVar[bool] = False
    """Whether it is told the strides and shapes of its blocks."""
    trunk_norm: bool = False
    """Whether it reads inner layers of a vision transformer through the trunk's last norm."""
    task: Mapping[str, Any] | None = None
    """What its outputs mean: ``kind`` ("classification", "multilabel", "regression") and ``classes``."""
    classifier: ClassVar[str | None] = None
    """Its last linear layer, if it has one: where a published classifier goes."""
    published: ClassVar[Mapping[str, Layout]] = {}
    """How other libraries name its weights, by layout; ours begin with the head's own parts."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Keeps the arguments of whatever constructor a subclass has."""
        head = super().__new__(cls)
        head.__dict__["config"] = _read_arguments(cls, args, options)
        return head

    def __init__(self, unique_id: str | int | None = None, num_classes: int | None = None) -> None:
        if type(self) is ClassyHead:
            raise TypeError("ClassyHead is abstract: use one of its subclasses")
        super().__init__()
        self.unique_id = check_name("unique_id", type(self).__name__ if unique_id is None else str(unique_id))
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The head that ``config`` describes: the constructor's arguments by name.

        Raises:
            ConfigError: a key or a value that the constructor does not take.
        """
        known = {key: value for key, value in config.items() if key not in ("name", "fork_block")}
        options = config_of(cls.__init__).parse(known, where=f"head {config.get('name', cls.__name__)!r}")
        return cls(**{name: getattr(options, name) for name in options.model_fields_set})

    @staticmethod
    def from_module(
        module: nn.Module,
        unique_id: str | int | None = None,
        num_classes: int | None = None,
        *,
        in_planes: int | Sequence[int] | None = None,
        reads_maps: bool = False,
        max_blocks: int | None = 1,
    ) -> ModuleHead:
        """A head of any module, whose forward gets the features of its blocks, in their order.

        Args:
            module: kept as it is.
            unique_id: the head's name; by default the name of the module's class.
            num_classes: the size of the prediction, where it has one.
            in_planes: channels of the blocks, which are checked when the head is attached; by default any.
            reads_maps: give it maps (n, c, h, w) from vision transformers too.
            max_blocks: how many blocks it can read; None for any number.

        Raises:
            ConfigError: the name cannot be used, or ``module`` is not a module.
        """
        return ModuleHead(module, unique_id, num_classes, in_planes, reads_maps, max_blocks)

    def to_config(self) -> dict[str, Any]:
        """The config, of JSON values, from which ``build_head`` makes this head again, with new weights.

        Options at their defaults are left out, and so is ``in_plane`` if the head takes it from its block.

        Raises:
            ConfigError: the class is not registered, or an option is not a JSON value.
        """
        cls = type(self)
        names = [entry.name for entry in HEADS if entry.cls is cls]
        if not names:
            why = "it was made of a module" if cls is ModuleHead else "its class needs register_head(name)"
            raise ConfigError(f"head {self.unique_id!r}: no config can name a {cls.__name__}: {why}")
        parameters = inspect.signature(cls.__init__).parameters
        defaults = {} if _has_own_from_config(cls) else {k: _to_json(p.default) for k, p in parameters.items()}
        for key in ("in_plane", "in_planes"):
            if cls.build is not ClassyHead.build and defaults.get(key, 0) is None:
                defaults[key] = self.config.get(key)
        options = {key: value for key, value in self.config.items() if value != defaults.get(key, _Unnamed(""))}
        for key, value in options.items():
            if isinstance(value, _Unnamed):
                raise ConfigError(f"head {self.unique_id!r}: no config can give {key} = a {value.kind}")
        return {"name": names[0], **options, "unique_id": self.unique_id}

    def connect(self, sources: Sequence[Source]) -> None:
        """Tells the head what it reads, each time when it is attached; builds its layers the first time.

        Raises:
            ConfigError: it cannot read that.
        """
        channels = [source.channels for source in sources if source.channels is not None]
        if needs_in_plane(self) and len(channels) == len(sources):
            self.build(*channels)

    def build(self, in_plane: int) -> None:
        """Makes the layers for a feature of ``in_plane`` channels, once that is known."""

    def load_published(self, state: Mapping[str, Tensor], layout: str | None = None) -> None:
        """Loads the head's part of the weights of a published model, or raises and changes nothing.

        For a head whose trunk comes from elsewhere; ``load_weights`` loads the trunk as well. A classifier
        that the state does not have stays as it is.

        Args:
            state: of the whole model, or of the head alone.
            layout: whose key names it has: one of ``published``. By default it is found from the names.

        Raises:
            ConfigError: the head has no layers yet, or keys or shapes are not its own.
        """
        load_published(self, state, layout)

    def output_layers(self) -> list[nn.Linear | nn.Conv2d]:
        """The linear layers or convolutions whose mean over layers and positions is the output, which a dense
        head only resizes; none if something else comes last."""
        layer = self.get_submodule(self.classifier) if self.classifier and self.num_classes else None
        return [layer] if isinstance(layer, (nn.Linear, nn.Conv2d)) else []

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define forward(x)")


class ModuleHead(ClassyHead):
    """A head of any module; see ``ClassyHead.from_module``."""

    def __init__(
        self,
        module: nn.Module,
        unique_id: str | int | None,
        num_classes: int | None,
        in_planes: int | Sequence[int] | None,
        reads_maps: bool,
        max_blocks: int | None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ConfigError(f"from_module takes a torch.nn.Module, not {type(module).__name__}")
        super().__init__(type(module).__name__ if unique_id is None else unique_id, num_classes)
        self.module = module
        self.reads_maps, self.max_blocks = reads_maps, max_blocks
        if isinstance(in_planes, int):
            self.in_plane = in_planes
        elif in_planes is not None:
            self.in_planes = tuple(in_planes)
            self.max_blocks = max_blocks and max(max_blocks, len(self.in_planes))

    def forward(self, *features: Tensor) -> Any:
        return self.module(*features)


HEADS: Registry[ClassyHead] = Registry("head", ClassyHead)
register_head = HEADS.register


def build_head(config: Mapping[str, Any], unknown: Unknown = None) -> ClassyHead:
    """The head that ``config`` describes.

    Args:
        config: the head's registered ``name``, its ``unique_id`` and its options; unchanged.
        unknown: "warn" leaves out keys that mean nothing, "error" refuses them; by default a config
            in the original's style, one that says its ``in_plane``, gets warnings.

    Raises:
        ConfigError: no such head, or options that it does not take.
    """
    return _build(clean_head(config, is_lenient([config], unknown)))


def is_lenient(heads: Sequence[Mapping[str, Any]], unknown: Unknown) -> bool:
    """Whether keys that mean nothing get a warning: asked for, or in a config in the original's style.

    That is one with heads of which each says its ``in_plane``, as the original demanded.

    Raises:
        ConfigError: ``unknown`` is something else.
    """
    if unknown not in ("warn", "error", None):
        raise ConfigError(f"unknown = {unknown!r}: 'warn', 'error' or None is needed")
    return unknown == "warn" or (unknown is None and bool(heads) and all("in_plane" in head for head in heads))


def clean_head(config: Mapping[str, Any], lenient: bool) -> dict[str, Any]:
    """``config`` ready to be built: without keys that mean nothing if that is allowed.

    Raises:
        ConfigError: no such head, or no name.
    """
    if config.get("name") is None:
        raise ConfigError(f"head config {dict(config)!r}: key 'name' is required")
    cls: type[ClassyHead] = HEADS[config["name"]].cls
    if config.get("unique_id") is None and (lenient or "unique_id" in config):
        config = {**config, "unique_id": cls.__name__}
    if lenient and not _has_own_from_config(cls):
        known = ("name", "fork_block", *config_of(cls.__init__).known_keys())
        config = drop_unknown(config, known, f"head {config['name']!r}", only_unread=False)
    return dict(config)


def _build(config: Mapping[str, Any]) -> ClassyHead:
    if "unique_id" not in config:
        raise ConfigError(f"head config {dict(config)!r}: key 'unique_id' is required")
    head = HEADS[config["name"]].cls.from_config(config)
    if _has_own_from_config(type(head)):  # its constructor's arguments are not the config's
        head.config = {k: _to_json(v) for k, v in config.items() if k not in ("name", "fork_block")}
    return head


def _has_own_from_config(cls: type[ClassyHead]) -> bool:
    return cls.from_config.__func__ is not ClassyHead.from_config.__func__  # type: ignore[attr-defined]  # a method of a class


@dataclass(frozen=True)
class _Unnamed:
    """A value that JSON does not have."""

    kind: str


def _read_arguments(cls: type[ClassyHead], args: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor by name, as JSON values."""
    try:
        bound = inspect.signature(cls.__init__).bind_partial(None, *args, **options).arguments
    except TypeError:  # the constructor will say it better
        return {}
    return {name: _to_json(value) for name, value in list(bound.items())[1:]}


def _to_json(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=_to_plain))
    except (TypeError, ValueError):
        return _Unnamed(type(value).__name__)


def _to_plain(value: Any) -> Any:
    """An activation by its name, and a number of numpy as one of Python."""
    if isinstance(value, nn.Module) and (name := activation_name(value)):
        return name
    if getattr(value, "shape", None) == ():
        return value.item()
    raise TypeError


def check_name(what: str, name: str) -> str:
    """``name``, if it can stand in a state dict.

    Raises:
        ConfigError: it is empty, has a dot in it or is taken by torch.nn.ModuleDict.
    """
    if not is_name(name):
        raise ConfigError(
            f"{what} {name!r} cannot be used: it becomes a part of state-dict keys, so it must "
            f"not be empty, hold a dot, or be an attribute of torch.nn.ModuleDict; "
            f"try {(name.replace('.', '-') or 'head') + ('_head' if name in _RESERVED else '')!r}"
        )
    return name


def is_name(name: str) -> bool:
    """Whether ``name`` can stand in a state dict."""
    return bool(name) and "." not in name and name not in _RESERVED


def check_choice(what: str, value: str | None, allowed: Iterable[str | None]) -> None:
    """Raises an UnknownNameError unless ``value`` is allowed; configs are checked before, code is not."""
    allowed = list(allowed)
    if value not in allowed:
        raise configs.unknown(what, value, [str(choice) for choice in allowed])


def check_heads(heads: Mapping[str, Sequence[ClassyHead]], sources: Mapping[str, Sequence[Source]]) -> None:
    """Raises if heads cannot be attached to their blocks.

    Args:
        heads: by place.
        sources: what they read there.

    Raises:
        ConfigError: two heads of one id, or a head whose ``in_plane`` is not the block's.
    """
    blocks: dict[str, str] = {}
    for block, entries in heads.items():
        for head in entries:
            if head.unique_id in blocks:
                raise ConfigError(
                    f"two heads have the id {head.unique_id!r}, on {blocks[head.unique_id]!r} and "
                    f"{block!r}; ids name the outputs, so each must be different"
                )
            _check_sources(head, sources[block])
            blocks[head.unique_id] = block


def _check_sources(head: ClassyHead, sources: Sequence[Source]) -> None:
    for source in sources:
        if head.reads_maps and source.tokens is not None and source.tokens.of_clip:
            raise ConfigError(
                f"head {head.unique_id!r} reads maps (c, h, w), but block {source.block!r} gives tokens of "
                f"clips"
            )
    if head.max_blocks is not None and len(sources) > head.max_blocks:
        raise ConfigError(
            f"head {head.unique_id!r} reads {head.max_blocks} block{'s' * (head.max_blocks > 1)}, not "
            f"{len(sources)}: "
            f"{', '.join(source.block for source in sources)}"
        )
    expected = head.in_planes or (head.in_plane,) * len(sources)
    if len(expected) != len(sources):
        raise ConfigError(
            f"head {head.unique_id!r} expects in_planes={list(expected)} of {len(expected)} blocks, but reads "
            f"{len(sources)}"
        )
    for channels, source in zip(expected, sources, strict=True):
        if channels is not None and source.channels not in (None, channels):
            key = "in_plane" if head.in_planes is None else "in_planes"
            raise ConfigError(
                f"head {head.unique_id!r} expects {key}={channels}, but block {source.block!r} "
                f"has {source.channels} channels; leave {key} out to take the block's"
            )


def needs_in_plane(head: ClassyHead) -> bool:
    """Whether ``head`` has layers to build for the channels of its blocks."""
    return head.in_plane is None and head.in_planes is None and type(head).build is not ClassyHead.build
