"""The model that a word means, described or loaded: see ``classy_vision.resolve`` for the words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classy_vision.config import ConfigError, read_config
from classy_vision.resolve import ANY, SAVED_CONFIG, Kind, ModelSource, Network, read_network, resolve
from classy_vision.weights.catalogue import HUB

if TYPE_CHECKING:
    from classy_vision.models.classy_model import ClassyModel

MODELS_ONLY = ANY - {Kind.EXPORTED}

# Torch, which takes a second, is imported once a word is known to need it.


def find_network(word: str | Path, user: str = "find_network") -> Network:
    """Returns the config of the model that ``word`` means.

    Args:
        word: what ``resolve`` takes, apart from exported files. The config of a file of weights is found
            from its tensors.
        user: the command or function that asks, for messages.

    Raises:
        ConfigError: there is no such model.
    """
    source = resolve(word, MODELS_ONLY, user)
    if source.kind is Kind.HUB:
        return Network(load_model(word).to_config())
    if source.kind is Kind.WEIGHTS:
        return Network(_identify(source))
    return read_network(source)


def load_model(word: str | Path, user: str = "load_model") -> ClassyModel:
    """Returns the model that ``word`` means, with its weights where it has any.

    Args:
        word: as for ``find_network``.
        user: as there.

    Raises:
        ConfigError: there is no such model, or it cannot be downloaded.
    """
    source = resolve(word, MODELS_ONLY, user)
    from classy_vision.models.classy_model import ClassyModel, build_model

    if source.kind in (Kind.RUN, Kind.SAVED, Kind.PUBLISHED):
        return ClassyModel.from_pretrained(source.path or source.name)
    if source.kind is Kind.WEIGHTS:
        return _build(_identify(source), source)
    if source.kind is not Kind.HUB:
        return build_model(read_network(source).config)
    if (config := _read_described(source)) is not None:
        return _build(config, source)
    try:
        return ClassyModel.from_pretrained(source.name)
    except ConfigError:  # a repository of another library has weights, and no config of ours
        try:
            return _build(_identify(source), source)
        except ConfigError:
            pass
        raise


def _identify(source: ModelSource) -> dict[str, Any]:
    from classy_vision.identify.identify import identify
    from classy_vision.weights.files import read_tensors
    from classy_vision.weights.sources import find_file

    return identify(read_tensors(find_file(source.path or source.name)))


def _read_described(source: ModelSource) -> dict[str, Any] | None:
    """Returns the config of a repository that transformers wrote; None for other types of models."""
    from classy_vision.models.vision_transformer.transformers_config import read_transformers_config
    from classy_vision.untrusted import check_values
    from classy_vision.weights.download import download_file
    from classy_vision.weights.files import read_tensors
    from classy_vision.weights.sources import find_file

    file = download_file(source.name.removeprefix(HUB), SAVED_CONFIG)
    config = None if file is None else read_transformers_config(read_config(file))
    if config is None:
        return None
    check_values(config, f"{SAVED_CONFIG} of {source.name}")
    return _add_heads(config, read_tensors(find_file(source.name)))


def _build(config: Mapping[str, Any], source: ModelSource) -> ClassyModel:
    from classy_vision.models.classy_model import build_model

    return build_model(config, weights={"source": source.path or source.name, "skip_heads": ()})


def find_network_of(state: Mapping[str, Any], word: str | None, user: str) -> dict[str, Any]:
    """Returns the config of ``word`` with the heads of ``state``, where it has none of its own.

    Args:
        state: a state dict in any layout.
        word: as for ``find_network``; without it the config is found from ``state``.
        user: as there.

    Raises:
        ConfigError: there is no such model, or none fits.
    """
    from classy_vision.identify.identify import identify
    from classy_vision.weights.catalogue import is_published

    if word is None:
        return identify(state)
    config = find_network(word, user).config
    if is_published(config["name"]) or "heads" in config or "num_classes" in config:
        return config
    return _add_heads(config, state)


def _add_heads(config: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns ``config`` with the heads of ``state``, where it is known which these are."""
    from classy_vision.identify.identify import identify

    try:
        found = identify(state)
    except ConfigError:  # loading the weights into the model says what is wrong
        return dict(config)
    return {**config, **{key: found[key] for key in ("heads", "num_classes") if key in found}}
