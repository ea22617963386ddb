"""What is compared: models by name, by pattern, in config files and in folders of them."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, read_config, unknown
from classy_vision.models import MODELS
from classy_vision.run_files import METRICS, RUN_CONFIG
from classy_vision.study.sample_folder import INDEX
from classy_vision.weights.catalogue import is_published, published
from classy_vision.weights.catalogue import names as published_names

FILES = (".yaml", ".yml", ".json")
WILD = frozenset("*?[")
IMAGENET = "imagenet_1k"


@dataclass(frozen=True)
class Candidate:
    """A model to compare, or why there is none.

    Attributes:
        name: among those that it is compared with.
        group: the folder of its file, or its family.
        config: for ``build_model``.
        input_size: height and width, where it is said; the model's own otherwise.
        accuracies: by head, from 0 to 1, where it is known: of published weights the top-1 on
            ImageNet that their publisher states, of a run what it measured last.
        failure: why there is no config.
    """

    name: str
    group: str
    config: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int] | None = None
    accuracies: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None


def find_candidates(given: Sequence[str]) -> list[Candidate]:
    """The models that ``given`` name, each under a name of its own.

    A word is a model's name, that of published weights ("timm/resnet50.a1_in1k"), either with
    wildcards, a YAML or JSON file with a model in it, a folder of such files or of a run, or a
    pattern of paths. A word or a file that cannot be read becomes a candidate with a failure.

    Raises:
        ConfigError: no word names anything.
    """
    found: list[Candidate] = []
    errors: list[ConfigError] = []
    for word in given:
        try:
            found += _named(word)
        except ConfigError as error:
            errors.append(error)
            found.append(Candidate(word, "", failure=" ".join(str(error).split())))
    if len(errors) == len(given):
        raise errors[0] if errors else ConfigError("give models to compare: names, patterns, files or folders")
    return _renamed([one for i, one in enumerate(found) if one not in found[:i]])


def _named(word: str) -> Iterator[Candidate]:
    path = Path(os.path.expanduser(word))
    wild = bool(set(word) & WILD)
    if is_published(word):
        return map(_published, _published_names(word, wild))
    if word in MODELS:
        return iter([_preset(word)])
    if wild and (presets := _presets(word)):
        return map(_preset, presets)
    if wild and (paths := sorted(glob.glob(str(path)))):
        return (one for each in paths for one in _at(Path(each)))
    if path.exists() or path.suffix in FILES:
        return _at(path)
    raise unknown("model", word, [entry.name for entry in MODELS])


def _preset(name: str) -> Candidate:
    return Candidate(name, MODELS[name].family, {"name": name})


def _presets(pattern: str) -> list[str]:
    names = [entry.name for entry in MODELS if entry.is_preset]
    return [name for name in names if fnmatchcase(name, pattern.lower())]


def _published_names(word: str, wild: bool) -> list[str]:
    found = [name for name in published_names() if fnmatchcase(name, word)] if wild else [word]
    if not found:
        raise unknown("published weights", word, published_names())
    return found


def _published(name: str) -> Candidate:
    entry = published(name)
    known = entry.top1 is not None and entry.labels == IMAGENET
    size = entry.preprocessing.image_size
    return Candidate(
        name,
        MODELS[entry.config["name"]].family,
        {"name": name},
        (size, size),
        {IMAGENET: entry.top1 / 100} if known and entry.top1 is not None else {},
    )


# -- files


def _at(path: Path) -> Iterator[Candidate]:
    """The candidates of a file or a folder."""
    if not path.is_dir():
        yield _file(path)
        return
    if (path / RUN_CONFIG).is_file():
        one = _file(path / RUN_CONFIG)
        yield replace(one, name=path.name, group=path.absolute().parent.name, accuracies=_measured(path))
        return
    files = sorted(file for file in path.iterdir() if file.suffix in FILES and file.name != INDEX)
    if not files:
        raise ConfigError(f"{str(path)!r} has no YAML or JSON files with models")
    yield from map(_file, files)


def _file(path: Path) -> Candidate:
    name, group = path.stem, path.absolute().parent.name
    try:
        config, size = _read(path)
    except ConfigError as error:
        return Candidate(name, group, failure=" ".join(str(error).split()))
    return Candidate(name, group, config, size)


def _read(path: Path) -> tuple[Mapping[str, Any], tuple[int, int] | None]:
    """The model of a model config or a training config, and the size of its images."""
    config = read_config(path)
    if "name" in config:
        return config, None
    model, data = config.get("model"), config.get("data")
    model = {"name": model} if isinstance(model, str) else model
    if not isinstance(model, Mapping) or "name" not in model:
        raise ConfigError(f"{path}: a model config has the key 'name', a training config the key 'model'")
    size = data.get("image_size") if isinstance(data, Mapping) else None
    return model, (size, size) if isinstance(size, int) else None


def _measured(run: Path) -> dict[str, float]:
    """What a run measured last, by head."""
    try:
        final = json.loads((run / METRICS).read_text(encoding="utf-8"))["final"]
    except (OSError, ValueError, KeyError):
        return {}
    return accuracies(final)


def accuracies(metrics: Mapping[str, float]) -> dict[str, float]:
    """Of an epoch's metrics the accuracy of each head that has one."""
    parts = {tuple(key.split("/")): value for key, value in metrics.items()}
    return {key[1]: value for key, value in parts.items() if len(key) == 3 and key[::2] == ("val", "accuracy")}


def _renamed(found: Sequence[Candidate]) -> list[Candidate]:
    """Names that stand twice get their group before them, and a number where that is no help."""
    times = Counter(one.name for one in found)
    whole = [replace(one, name=f"{one.group}/{one.name}") if times[one.name] > 1 else one for one in found]
    times, seen = Counter(one.name for one in whole), Counter[str]()
    for i, one in enumerate(whole):
        seen[one.name] += 1
        if times[one.name] > 1:
            whole[i] = replace(one, name=f"{one.name}#{seen[one.name]}")
    return whole
