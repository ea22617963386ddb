"""What a word means that stands for a model: a preset, published weights, a file, a folder or a repository.

Commands and functions resolve words here and nowhere else. Files are told apart by their names and first
bytes; torch is not imported, and nothing is downloaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, read_config, shown, unknown
from classy_vision.presets import check_keys, check_model, families, is_model
from classy_vision.run_files import CLASSY_CHECKPOINT, RUN_CONFIG
from classy_vision.run_files import WEIGHTS as MODEL_WEIGHTS
from classy_vision.untrusted import read_foreign_config
from classy_vision.weights.catalogue import HUB, check_bare, is_published, names, published

CONFIGS = (".yaml", ".yml", ".json")
EXPORTS = (".onnx", ".pt2", ".xml")
"""Suffixes of exported files; a ``.safetensors`` file can be one, too."""
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".npz", ".torch", ".th", ".pyth", ".pkl", ".ckpt", ".tar")
EXPORT_KEY = "classy_vision"
"""The key that ``classy export`` writes into the header of a ``.safetensors`` file."""
SAVED_CONFIG = "config.json"
FOLDER_WEIGHTS = (MODEL_WEIGHTS, CLASSY_CHECKPOINT)
MAX_HEADER = 100_000_000


class Kind(str, Enum):
    """The kinds of words that mean a model, as messages call them."""

    PRESET = "a preset"
    FAMILY = "a family of models"
    PUBLISHED = "a name of published weights"
    HUB = "a repository of the hub"
    CONFIG = "a config file"
    RUN = "a run folder"
    SAVED = "a folder of save_pretrained"
    WEIGHTS = "a file of weights"
    EXPORTED = "an exported file"


ANY = frozenset(Kind)
DESCRIBED = frozenset((Kind.PRESET, Kind.FAMILY, Kind.PUBLISHED, Kind.CONFIG, Kind.RUN, Kind.SAVED))
"""Words that give a config without reading weights."""
WITHOUT_WEIGHTS = frozenset((Kind.PRESET, Kind.FAMILY, Kind.CONFIG))
TRAINED = ANY - WITHOUT_WEIGHTS
TAKEN_BY = {
    Kind.HUB: "ClassyModel.from_pretrained loads it",
    Kind.WEIGHTS: "classy weights show finds its config, and load_weights loads it into a model",
    Kind.EXPORTED: "classy predict and classy evaluate run it, and load_exported loads it",
    **dict.fromkeys(WITHOUT_WEIGHTS, "it has no weights; classy show, compare and export take it"),
}


@dataclass(frozen=True)
class ModelSource:
    """What a word means.

    Attributes:
        kind: the kind of word.
        name: the word as it was given.
        path: the file or folder, where it is one.
    """

    kind: Kind
    name: str
    path: Path | None = None


def resolve(word: str | Path, taken: Collection[Kind] = ANY, user: str = "") -> ModelSource:
    """Tells what ``word`` means.

    The names of models win over files and folders, and those over published names.

    Args:
        word: a preset, a family, a published name ("timm/resnet50.a1_in1k"), "hf-hub:owner/name", or the
            path of a config file, a run folder, a folder of ``save_pretrained``, a file of weights or an
            exported file.
        taken: the kinds that ``user`` takes.
        user: the command or function that asks, for the message.

    Raises:
        UnknownNameError: no model and no published weights have such a name.
        ConfigError: there is no such file or folder, or it is of a kind that ``user`` does not take.
    """
    source = _find(str(word))
    _check(source, taken, user)
    return source


def check_kind(word: str | Path, taken: Collection[Kind], user: str) -> None:
    """Raises if ``word`` is of a kind that ``user`` does not take; a word that means nothing is left alone.

    Raises:
        ConfigError: says which kind it is, and what takes it.
    """
    try:
        source = _find(str(word))
    except ConfigError:
        return
    _check(source, taken, user)


def _check(source: ModelSource, taken: Collection[Kind], user: str) -> None:
    if source.kind in taken:
        return
    advice = f": {TAKEN_BY[source.kind]}" if source.kind in TAKEN_BY else ""
    raise ConfigError(f"{shown(source.name)} is {source.kind.value}, which {user} does not take{advice}")


def _find(word: str) -> ModelSource:
    path = Path(os.path.expanduser(word))
    if not word.removeprefix(HUB):
        raise ConfigError(f"{shown(word)} does not name a model")
    if word.startswith(HUB):
        return ModelSource(Kind.PUBLISHED if is_published(word) else Kind.HUB, word)
    if is_model(word):
        return ModelSource(Kind.FAMILY if word in families() else Kind.PRESET, word)
    if os.path.isdir(path):
        kind = find_folder_kind(path)
        if kind is None:
            raise ConfigError(
                f"{shown(word)} is not a run folder, and not one of save_pretrained: it holds neither "
                f"{RUN_CONFIG} nor {SAVED_CONFIG}"
            )
        return ModelSource(kind, word, path)
    if os.path.exists(path):
        return ModelSource(_find_file_kind(path), word, path)
    if is_published(word):
        published(word)
        return ModelSource(Kind.PUBLISHED, word)
    raise _describe_missing(word, path)


def find_folder_kind(path: Path) -> Kind | None:
    """Tells which kind of model is in a folder; None where there is none."""
    if os.path.isfile(path / SAVED_CONFIG):
        return Kind.SAVED
    if os.path.isfile(path / RUN_CONFIG):
        return Kind.RUN
    return Kind.WEIGHTS if any(os.path.isfile(path / name) for name in FOLDER_WEIGHTS) else None


def _find_file_kind(path: Path) -> Kind:
    suffix = path.suffix.lower()
    if suffix in CONFIGS:
        return Kind.CONFIG
    if suffix in EXPORTS or (suffix == ".safetensors" and EXPORT_KEY in _read_header(path)):
        return Kind.EXPORTED
    if suffix in WEIGHTS:
        return Kind.WEIGHTS
    with open(path, "rb") as file:
        return Kind.WEIGHTS if b"\0" in file.read(512) else Kind.CONFIG


def _read_header(path: Path) -> Mapping[str, Any]:
    """Reads the metadata of a ``.safetensors`` file; a damaged one has none."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, MAX_HEADER)))
        metadata = header.get("__metadata__")
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _describe_missing(word: str, path: Path) -> ConfigError:
    suffix = path.suffix.lower()
    if suffix in CONFIGS:
        try:
            read_config(path)
        except ConfigError as error:  # says why: there is no such file, or its name is too long
            return error
    if "://" in word:
        return ConfigError(f"{shown(word)} is an address: download it, and give the file")
    for suffixes, what in ((EXPORTS, "exported"), (WEIGHTS, "weights")):
        if suffix in suffixes:
            return ConfigError(f"no such {what} file: {shown(word)}")
    if os.sep in word:
        is_hub = word.count("/") == 1 and word[0] not in "./~"
        hint = f"; a repository of the hub is written {HUB}{word[:99]}" if is_hub else ""
        return ConfigError(f"there is no file and no folder {shown(word)}{hint}")
    try:
        check_bare(word)
        check_model(word)
    except ConfigError as error:
        return error
    return unknown("published weights", word, names())


# -- configs


@dataclass(frozen=True)
class Network:
    """The model that a word means.

    Attributes:
        config: for ``build_model``.
        has_open_heads: whether the number of classes that it leaves out is given by data.
        image_size: height and width of the input, where they are given.
    """

    config: dict[str, Any]
    has_open_heads: bool = False
    image_size: tuple[int, int] | None = None


def read_network(source: ModelSource) -> Network:
    """Reads the config of a source that is not a file of weights, a repository or an exported file.

    Raises:
        ConfigError: the file cannot be read, has no model in it, or a key that the model does not take.
    """
    if source.path is None:
        return Network({"name": source.name}, has_open_heads=source.kind is not Kind.PUBLISHED)
    inside = {Kind.RUN: RUN_CONFIG, Kind.SAVED: SAVED_CONFIG}.get(source.kind, "")
    path = source.path / inside
    config = read_foreign_config(path) if source.kind is Kind.SAVED else read_config(path)
    if "name" in config:
        check_bare(config["name"])
        check_keys(config)
        return Network(config)
    model, data = config.get("model"), config.get("data")
    model = {"name": model} if isinstance(model, str) else model
    if not isinstance(model, dict) or "name" not in model:
        raise ConfigError(f"{path}: a model config has the key 'name', a training config the key 'model'")
    check_bare(model["name"])
    check_keys(model)
    size = data.get("image_size") if isinstance(data, dict) else None
    return Network(model, True, (size, size) if isinstance(size, int) else None)
