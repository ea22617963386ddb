"""Model configs as they are given, and those that name published weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classy_vision.config import Config, ConfigError, check_nesting
from classy_vision.heads.classy_head import Unknown, is_lenient
from classy_vision.registry import Registry
from classy_vision.resolve import DESCRIBED, TRAINED, Kind, read_network, resolve
from classy_vision.weights.catalogue import check_bare, is_published, published
from classy_vision.weights.licenses import warn_of_license

NAMED = DESCRIBED - {Kind.PUBLISHED}


class LoadOptions(Config):
    """What ``load_weights`` takes, but for the model and the source."""

    layout: str | None = None
    head: str | None = None
    skip_heads: bool | str | tuple[str, ...] | frozenset[str] | set[str] = ()
    channels: str | None = None
    patches: str | None = None
    class_token: str | None = None
    prefix: str = ""


def check_heads(given: Mapping[str, Any], unknown: Unknown) -> bool:
    """Checks the heads of a config, and says whether keys that mean nothing are left out with a warning."""
    heads = given.get("heads")
    _check_mappings(heads)
    lenient = is_lenient(heads or (), unknown)
    if heads and given.get("num_classes") is not None and not lenient:
        raise ConfigError(
            f"num_classes = {given['num_classes']!r} beside heads means nothing: write num_classes in the head "
            f"that it is of, or leave heads out for the default head"
        )
    return lenient


def _check_mappings(heads: Any) -> None:
    if not isinstance(heads, (list, tuple, type(None))):
        raise ConfigError(f"heads = {heads!r}: a list of mappings is needed")
    for head in heads or ():
        if not isinstance(head, Mapping):
            raise ConfigError(f"heads is a list of mappings, not of {type(head).__name__}: {head!r}")
        if "fork_block" not in head:
            raise ConfigError(f"head config {dict(head)!r}: key 'fork_block' is required")
        check_fork_block(head["fork_block"])


def check_fork_block(value: Any) -> None:
    """Raises where a head's ``fork_block`` is neither the name of a block nor a list of such names."""
    blocks = [value] if isinstance(value, str) else value
    if not isinstance(blocks, (list, tuple)) or not blocks or not all(isinstance(b, str) for b in blocks):
        raise ConfigError(f"fork_block = {value!r}: the name of a block is needed, or a list of names")


def read_given(config: Any, overrides: Mapping[str, Any], models: Registry[Any]) -> dict[str, Any]:
    """A config, or the word for a model, as a mapping with a name."""
    if not isinstance(config, (str, Mapping)):
        raise ConfigError(f"build_model takes a name or a mapping, not {type(config).__name__}")
    check_nesting([config, overrides], "the model config")
    named = _read_word(config, models, overrides) if isinstance(config, str) else config
    if named.get("weights") and overrides.get("weights") is True:
        overrides = {key: value for key, value in overrides.items() if key != "weights"}
    given = {**named, **overrides}
    if "name" not in given:
        raise ConfigError(f"a model config needs a name: {given!r}")
    return given


def _read_word(word: str, models: Registry[Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of the model that ``word`` means; see ``classy_vision.resolve``.

    ``weights=True`` among the overrides means the weights of a run folder or a folder of
    ``save_pretrained``, too.

    Raises:
        ConfigError: it is a file of weights, an exported file or a repository.
    """
    if word in models or is_published(word):
        return {"name": word}
    source = resolve(word, NAMED, "build_model")
    loaded = overrides.get("weights") is True and source.kind in TRAINED
    return {**read_network(source).config, **({"weights": source.path} if loaded else {})}


def with_published(
    given: Mapping[str, Any], models: Registry[Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A model config with what published weights need, and the arguments of ``load_weights``.

    Raises:
        ConfigError: the weights are those of another network than ``name``.
    """
    config = dict(given)
    weights = config.pop("weights", None)
    name = config["name"]
    if name not in models:
        check_bare(name)
    named = published(name) if isinstance(name, str) and is_published(name) else None
    if weights is True and named is None:
        raise ConfigError(f"weights: true is for the name of published weights, which {name!r} is not")
    if weights is True:
        weights = name
    options = dict(weights) if isinstance(weights, Mapping) and "source" in weights else {"source": weights}
    LoadOptions.parse({k: v for k, v in options.items() if k != "source"}, "weights", also=["source"])
    source = options["source"]
    entry = published(source) if isinstance(source, str) and is_published(source) else named
    if entry is not None:
        warn_of_license(entry.name, entry.license, entry.address)
        theirs = dict(entry.config)
        if named is None:
            _check_network(config, theirs, entry.name, models)
        if "heads" in config or "num_classes" in config:
            theirs = {key: value for key, value in theirs.items() if key not in ("heads", "num_classes")}
        config = {**theirs, **config, "name": theirs["name"]}
    return config, options if weights else None


def _check_network(
    config: Mapping[str, Any], theirs: Mapping[str, Any], source: str, models: Registry[Any]
) -> None:
    name = config["name"]
    if name not in (theirs["name"], models[theirs["name"]].family):
        raise ConfigError(
            f"weights = {source!r} are of {theirs['name']!r}, not of {name!r}: write name: {theirs['name']}"
        )
