"""The base of all models: a trunk of named blocks, and heads that read any of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn
from typing_extensions import Self

from classy_vision.config import ConfigError, drop_unknown, read_config
from classy_vision.heads.classy_head import ClassyHead, TokenLayout, Unknown, build_head, clean_head
from classy_vision.hub.card import write_card
from classy_vision.hub.download import find_folder
from classy_vision.hub.folder import CONFIG, write_folder
from classy_vision.hub.upload import upload_folder
from classy_vision.models.facts import find_use, published_of, read_facts
from classy_vision.models.published import check_heads, read_given, with_published
from classy_vision.registry import Entry, Registry, unknown_model
from classy_vision.removed import ATTRIBUTES, explain_removed, take_renamed
from classy_vision.run_files import CLASSY_CHECKPOINT, RUN_CONFIG, WEIGHTS
from classy_vision.trunk.hooks import check_paths
from classy_vision.trunk.loading import find_source, load_weights
from classy_vision.trunk.map_layout import MapLayout, MapLayouts
from classy_vision.trunk.meta import OnMeta
from classy_vision.trunk.names import join_blocks, split_place
from classy_vision.trunk.own_forward import ByHooks
from classy_vision.trunk.trunk import END, ModelConfig, Trunk
from classy_vision.trunk.use import set_use, take_use, use_of, use_of_run
from classy_vision.untrusted import check_values, read_foreign_config
from classy_vision.weights.catalogue import is_published
from classy_vision.weights.classy_vision import checkpoint_config
from classy_vision.weights.files import read_tensors
from classy_vision.weights.report import Report


class ClassyModel(Trunk):
    """A trunk with heads, made from configs, checkpoints and other modules.

    ``model(x)`` gives the end of the trunk if there are no heads, the output of a single
    head, or a dict of outputs by head id. Nothing after the deepest block that is read runs.

    Args:
        config: the family's configuration, as an object or a mapping.
        options: further values, or all of them; they win.

    Raises:
        ConfigError: a key or value that the family does not take.
    """

    loaded: Report | None = None
    """What ``build_model`` loaded."""
    preprocessing: Mapping[str, Any] | None = None
    """How a file becomes an input, in keys of ``data`` of a training config; None if it is not known."""
    __jit_unused_properties__: ClassVar = [
        *("block_names", "classy_model", "frozen_until", "input_shape", "labels")
    ]
    """What ``torch.jit.script`` leaves alone, as in the original."""
    default_num_classes: ClassVar[int | None] = None
    """``num_classes`` of a config that has neither that nor heads."""
    _built_from: Mapping[str, Any] | None = None
    """The config of a family that has a ``from_config`` of its own."""

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
            raise AttributeError(f"{type(self).__name__}.{name} was removed: {ATTRIBUTES[name]}")
        return super().__getattr__(name)

    # Configs

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The model that ``config`` describes, without the heads it lists.

        ``num_classes`` attaches the family's default head to the end of the trunk, unless the
        config lists heads.

        Raises:
            ConfigError: a key or value that the family does not take, or values that do not go together.
        """
        given = {key: value for key, value in config.items() if key not in MODEL_KEYS}
        options = cls.config_class.parse(given, config.get("name", cls.__name__), also=MODEL_KEYS)
        heads = []
        attached = config.get("heads")
        classes = config.get("num_classes", cls.default_num_classes if attached is None else None)
        if classes is not None and not attached:
            head = {"unique_id": "default_head", "num_classes": classes}
            heads = _build_heads([{"fork_block": END, **cls.default_head(options), **head}])
        try:
            model = cls(options)
        except ConfigError:
            raise
        except ValueError as error:  # values that are fine one by one, such as groups that do not divide
            raise ConfigError(f"{config.get('name', cls.__name__)}: {error}") from error
        _attach(model, heads)
        return model

    def to_config(self) -> dict[str, Any]:
        """The config, of JSON values, from which ``build_model`` makes this model again, with new weights.

        It names the family, the options that are not at their defaults, the heads, and, if they are
        known, the preprocessing and the meaning of the outputs.

        Raises:
            ConfigError: no config can describe the model: it comes from ``from_model``, its class or that
                of a head is not registered, or a head has an option that is not a JSON value.
        """
        cls = type(self)
        if isinstance(self, ModelAdapter):
            kind = type(self.model).__name__
            raise ConfigError(f"a model of from_model has no config: only code can make its {kind} again")
        names = [entry.name for entry in MODELS if entry.cls is cls and not entry.is_preset]
        if not names:
            raise ConfigError(f"no config can name a {cls.__name__}: its class needs register_model(name)")
        if not _has_own_from_config(cls):
            options = _dump_options(self.config)
        elif self._built_from is None:
            raise ConfigError(f"{cls.__name__} has a from_config of its own: build it with build_model")
        else:
            options = dict(self._built_from)
        attached = ((place, head) for place, heads in self.get_heads().items() for head in heads)
        heads = [{**head.to_config(), "fork_block": _to_fork_block(place)} for place, head in attached]
        config = {"name": names[0], **options, "heads": heads, **use_of(self).as_config()}
        try:
            return dict(json.loads(json.dumps(config)))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the config of {cls.__name__} is not JSON: {error}") from None

    # Other modules, checkpoints, folders and the hub

    @staticmethod
    def from_model(
        model: nn.Module,
        blocks: Sequence[str] | Mapping[str, str] = (),
        input_shape: Sequence[int] | None = None,
        model_depth: int | None = None,
        layout: MapLayout | Mapping[str, MapLayout] | None = None,
        prefix_tokens: int | None = None,
        class_token: bool | None = None,
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
                by block. By default it is found by a run without data; a module for which that fails
                is read as it is.
            prefix_tokens: how many tokens stand before the patches, the class token first: pooling and
                heads that read maps leave them out. By default the module's own ``num_prefix_tokens``, as
                timm's have it, or none.
            class_token: whether the first of them is a class token, and not a register. By default what
                the module says, as timm's do: its ``has_class_token``, or a ``cls_token`` of None; else yes.

        Raises:
            ConfigError: a path that the module does not have, no such layout, or a class token where no
                token stands before the patches.
        """
        return ModelAdapter(model, blocks, input_shape, layout, prefix_tokens, class_token)

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
            if (path / RUN_CONFIG).is_file():
                settings = read_config(path / RUN_CONFIG)
                model = build_model(settings.get("model", {}))
                model.load_state_dict(read_tensors(path / WEIGHTS))
                set_use(model, use_of_run(settings))
                return model
            checkpoint = read_tensors(path / CLASSY_CHECKPOINT if path.is_dir() else path)
            check_values(checkpoint_config(checkpoint), str(path))
        config = checkpoint_config(checkpoint)
        if config.get("heads"):  # beside them the original ignored it
            config.pop("num_classes", None)
        model = build_model(config, unknown="warn")
        model.set_classy_state(checkpoint)
        return model

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Self:
        """The model of a folder, of a repository of the Hugging Face hub, or of published weights.

        Nothing is unpickled, and the config is held to sizes that models have. The hub's own library
        handles its cache, ``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE``.

        Args:
            name: a folder of ``save_pretrained``, a run folder, "owner/repository[@revision]", or
                published weights ("timm/resnet50.a1_in1k").
            options: what ``huggingface_hub.hf_hub_download`` takes: ``revision``, ``token``,
                ``cache_dir``, ``local_files_only``, ``force_download``.

        Raises:
            ConfigError: there is no such model, it cannot be downloaded, it is damaged, or it is not a ``cls``.
        """
        if not Path(name).expanduser().exists() and is_published(str(name)):
            model = build_model(str(name), weights=True)
        else:
            model = _read_folder(find_folder(name, options))
        if not isinstance(model, cls):
            raise ConfigError(f"{str(name)!r} is a {type(model).__name__}, not a {cls.__name__}")
        return model

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        repo_id: str | None = None,
        license: str | None = None,
        run: str | Path | None = None,
        licence: str | None = None,
    ) -> None:
        """Writes ``config.json``, ``model.safetensors`` and a card, ``README.md``, for ``from_pretrained``.

        Each file is written beside its place and renamed. A ``README.md`` that exists is kept.

        Args:
            folder: it is made if it does not exist.
            repo_id: what the card says to load, "owner/name"; by default the folder's name.
            license: of the weights, for the card ("mit"); ``licence`` is its old name.
            run: the run folder the model comes from. Its classes and preprocessing go into the config, and
                its data and metrics onto the card. By default they are those that the model carries:
                ``from_checkpoint``, ``from_pretrained`` and published weights bring them along.

        Raises:
            ConfigError: no config can describe the model, ``run`` is of another model, or the folder
                cannot be written.
        """
        license = take_renamed("licence", licence, "license", license)
        config = {**self.to_config(), **find_use(self, run).as_config()}
        facts = read_facts(self, config, repo_id or Path(folder).name, license, published_of(self), run)
        write_folder(Path(folder), self.state_dict(), config, write_card(facts))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        commit_message: str = "Push model using classy-vision-models",
        license: str | None = None,
        run: str | Path | None = None,
        licence: str | None = None,
    ) -> str:
        """Uploads what ``save_pretrained`` writes, in one commit; a card that exists there is kept.

        Args:
            repo_id: "owner/name"; the repository is made if it does not exist.
            private: whether a new repository is private.
            token: of the hub; by default that of ``hf auth login`` or ``HF_TOKEN``.
            branch: the branch to upload to, "main" by default.
            create_pr: open a pull request instead of committing.
            commit_message: of the commit.
            license, run: as for ``save_pretrained``.

        Returns:
            The address of the commit.

        Raises:
            ConfigError: no config can describe the model, or the hub refuses.
        """
        license = take_renamed("licence", licence, "license", license)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, repo_id=repo_id, license=license, run=run)
            return upload_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                branch=branch,
                create_pr=create_pr,
                commit_message=commit_message,
            )

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """The names of classes in the order of the outputs, by head, if they are known."""
        tasks = use_of(self).tasks
        return {head: tuple(task["classes"]) for head, task in tasks.items() if task.get("classes")}

    @property
    def classy_model(self) -> Self:
        """The model itself. In the original: the model inside its wrapper."""
        return self


MODEL_KEYS = ("name", "heads", "num_classes", "weights", "preprocessing", "tasks")
"""Keys of a model config that are not the family's."""
MODELS: Registry[ClassyModel] = Registry("model", ClassyModel, unknown_model)
register_model = MODELS.register
_Attachment = tuple[str, ClassyHead]
"""A head, after its place."""


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
    given, weights = with_published(read_given(config, overrides, MODELS), MODELS)
    use = take_use(given)
    entry = MODELS[given["name"]]
    lenient = check_heads(given, unknown)
    if unknown != "error":
        given = _drop_unknown(entry, given, lenient)
    if given.get("heads"):
        given["heads"] = list(map(partial(clean_head, lenient=lenient), given["heads"]))
    heads = _build_heads(given.get("heads") or ())  # a wrong head is found before the trunk is made
    if weights is not None:
        named, weights["source"] = weights["source"], find_source(weights["source"])  # and so are wrong weights
    with OnMeta() if weights is not None else nullcontext():
        model = entry.cls.from_config({**entry.preset, **given})
        _attach(model, heads)
    if _has_own_from_config(entry.cls):
        model._built_from = {k: v for k, v in {**entry.preset, **given}.items() if k not in ("name", "heads")}
    if weights is not None:
        model.loaded = load_weights(model, **{"skip_heads": "unfit", **weights})
        if isinstance(named, str) and is_published(named):
            model.loaded = replace(model.loaded, source=named)  # not its place in the cache
        _renew_heads(model, model.loaded.kept)
    set_use(model, use)
    return model


def _drop_unknown(entry: Entry[ClassyModel], given: dict[str, Any], lenient: bool) -> dict[str, Any]:
    cls = entry.cls
    if _has_own_from_config(cls) or (
        entry.is_preset and not lenient
    ):  # a user's from_config reads what it likes
        return given
    return drop_unknown(given, (*MODEL_KEYS, *cls.config_class.known_keys()), entry.name, not lenient)


def _has_own_from_config(cls: type[ClassyModel]) -> bool:
    return cls.from_config.__func__ is not ClassyModel.from_config.__func__  # type: ignore[attr-defined]  # a method of a class


def _build_heads(configs: Iterable[Mapping[str, Any]]) -> list[_Attachment]:
    return [(join_blocks(config["fork_block"]), build_head(config, "error")) for config in configs]


def _to_fork_block(place: str) -> str | list[str]:
    blocks = split_place(place)
    return blocks[0] if len(blocks) == 1 else list(blocks)


def _attach(model: ClassyModel, attachments: Iterable[_Attachment]) -> None:
    heads: dict[str, list[ClassyHead]] = {}
    for block, head in attachments:
        heads.setdefault(block, []).append(head)
    if heads:
        model.set_heads(heads)


def _renew_heads(model: ClassyModel, names: Iterable[str]) -> None:
    """Builds heads again that were on the meta device and got no weights."""
    heads = model.get_heads()
    new = set(names) & {head.unique_id for entries in heads.values() for head in entries}
    for entries in heads.values() if new else ():
        entries[:] = [build_head(h.to_config(), "error") if h.unique_id in new else h for h in entries]
    if new:
        model.set_heads(heads)


def _read_folder(folder: Path) -> ClassyModel:
    """The model of a run folder, or of one of ``save_pretrained``."""
    if not (folder / CONFIG).is_file():
        return ClassyModel.from_checkpoint(folder)
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(f"no such weights file: {str(folder / WEIGHTS)!r}")
    weights = {"source": folder / WEIGHTS, "skip_heads": ()}
    return build_model(read_foreign_config(folder / CONFIG), weights=weights)


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
        prefix_tokens: int | None = None,
        class_token: bool | None = None,
    ) -> None:
        shape = tuple(input_shape or (3, 224, 224))
        super().__init__(in_channels=shape[0])
        if not isinstance(model, nn.Module):
            raise TypeError(f"from_model takes a torch.nn.Module, not {type(model).__name__}")
        paths = check_paths(model, blocks)
        self._input_shape = shape
        self.model = model
        self._tokens = _find_tokens(model, prefix_tokens, class_token)
        steps = [*paths, END]
        names = {**{step: step for step in steps}, **{path: name for name, path in paths.items()}}
        self._own_route = ByHooks("model", paths, MapLayouts(layout, names, shape))
        self._own_route.prepare(self, steps)

    def forward(self, x: Any) -> Any:
        """What the module gives, or the outputs of the heads."""
        return self.model(x)

    def token_layout(self, step: str) -> TokenLayout | None:
        return self._tokens

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


def _find_tokens(model: nn.Module, prefix: int | None, class_token: bool | None) -> TokenLayout:
    """How the tokens of a module stand: as a caller says, or else the module."""
    number: int = getattr(model, "num_prefix_tokens", 0) if prefix is None else prefix
    if class_token and not number:
        raise ConfigError(
            "class_token = True, but prefix_tokens = 0: it counts among them, so 1 or more is needed"
        )
    if class_token is None:
        said = getattr(model, "has_class_token", None)
        class_token = said if isinstance(said, bool) else getattr(model, "cls_token", model) is not None
    return TokenLayout(number, class_token and number > 0)


if not TYPE_CHECKING:
    __getattr__ = explain_removed(__name__)


def _dump_options(config: ModelConfig) -> dict[str, Any]:
    """The options of a network that are not at their defaults, some of which depend on other options."""
    options = config.model_dump(mode="json", exclude_defaults=True)
    again = type(config).parse(options, type(config).__name__)
    differs = {name for name, value in config if value != getattr(again, name)}
    return {**options, **config.model_dump(mode="json", include=differs)}
