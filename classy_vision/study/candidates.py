"""What is compared: the models that words, patterns and folders of configs mean."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, unknown
from classy_vision.identify.networks import MODELS_ONLY, find_network
from classy_vision.presets import families, family_of, is_model
from classy_vision.resolve import CONFIGS, Kind, ModelSource, find_folder_kind, resolve
from classy_vision.run_files import METRICS
from classy_vision.weights.catalogue import is_published, published
from classy_vision.weights.catalogue import names as published_names

WILD = frozenset("*?[")
IMAGENET = "imagenet_1k"
INDEX = "index.json"
"""The file in a folder of samples that is not a model."""


@dataclass(frozen=True)
class Candidate:
    """A model to compare, or why there is none.

    Attributes:
        name: among those that it is compared with.
        group: the folder of its file, or its family.
        config: for ``build_model``.
        input_size: height and width, if they are given; by default the model's own.
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
    """Finds the models that ``given`` name, each under a unique name.

    A word is what ``classy_vision.resolve`` takes apart from exported files, a pattern of names or paths, or
    a folder of config files. A word or a file that cannot be read becomes a candidate with a failure.

    Raises:
        ConfigError: no word names anything.
    """
    found: list[Candidate] = []
    errors: list[ConfigError] = []
    for word in given:
        try:
            found += _find(word)
        except ConfigError as error:
            errors.append(error)
            found.append(_fail(word, error))
    if len(errors) == len(given):
        raise errors[0] if errors else ConfigError("give models to compare: names, patterns, files or folders")
    return _make_unique([one for i, one in enumerate(found) if one not in found[:i]])


def _find(word: str) -> Iterator[Candidate]:
    if set(word) & WILD and not os.path.exists(os.path.expanduser(word)):
        return _match(word)
    folder = Path(os.path.expanduser(word))
    if folder.is_dir() and not is_model(word) and find_folder_kind(folder) is None:
        return _read_folder(folder)
    if folder.suffix in CONFIGS and not is_model(word):
        return iter([_read_file(folder)])
    return iter([_make(resolve(word, MODELS_ONLY, "classy compare"))])


def _match(pattern: str) -> Iterator[Candidate]:
    """Finds the presets, published weights or paths that a pattern matches."""
    if is_published(pattern):
        if not (found := [name for name in published_names() if fnmatchcase(name, pattern)]):
            raise unknown("published weights", pattern, published_names())
        return map(_make_published, found)
    known = families()
    presets = [name for names in known.values() for name in names]
    if found := [name for name in presets if fnmatchcase(name, pattern.lower())]:
        return map(_make_preset, found)
    paths = sorted(glob.glob(os.path.expanduser(pattern)))
    if not paths:
        raise unknown("model", pattern, [*known, *presets])
    return chain.from_iterable(map(_find_path, paths))


def _find_path(path: str) -> Iterable[Candidate]:
    """Finds what one of several paths names; one that names nothing does not hold up the others."""
    try:
        return [*_find(path)]
    except ConfigError as error:
        return [_fail(path, error)]


def _fail(word: str, error: ConfigError) -> Candidate:
    return Candidate(word, "", failure=" ".join(str(error).split()))


def _make(source: ModelSource) -> Candidate:
    if source.kind is Kind.PUBLISHED:
        return _make_published(source.name)
    if source.path is None and source.kind is not Kind.HUB:
        return _make_preset(source.name)
    network = find_network(source.path or source.name, "classy compare")
    if source.path is None:
        return Candidate(source.name, "hub", network.config)
    found = _read_run(source.path) if source.kind is Kind.RUN else {}
    name = source.path.name if source.kind in (Kind.RUN, Kind.SAVED) else source.path.stem
    return Candidate(name, source.path.absolute().parent.name, network.config, network.image_size, found)


def _make_preset(name: str) -> Candidate:
    return Candidate(name, family_of(name), {"name": name})


def _make_published(name: str) -> Candidate:
    entry = published(name)
    known = entry.top1 is not None and entry.labels == IMAGENET
    size = entry.preprocessing.image_size
    return Candidate(
        name,
        family_of(entry.config["name"]),
        {"name": name},
        (size, size),
        {IMAGENET: entry.top1 / 100} if known and entry.top1 is not None else {},
    )


# -- files


def _read_folder(path: Path) -> Iterator[Candidate]:
    files = sorted(file for file in path.iterdir() if file.suffix in CONFIGS and file.name != INDEX)
    if not files:
        raise ConfigError(f"{str(path)!r} has no YAML or JSON files with models")
    yield from map(_read_file, files)


def _read_file(path: Path) -> Candidate:
    name, group = path.stem, path.absolute().parent.name
    try:
        network = find_network(path, "classy compare")
    except ConfigError as error:
        return Candidate(name, group, failure=" ".join(str(error).split()))
    return Candidate(name, group, network.config, network.image_size)


def _read_run(run: Path) -> dict[str, float]:
    """Reads what a run measured last, by head."""
    try:
        final = json.loads((run / METRICS).read_text(encoding="utf-8"))["final"]
    except (OSError, ValueError, KeyError):
        return {}
    return read_accuracies(final)


def read_accuracies(metrics: Mapping[str, float]) -> dict[str, float]:
    """Reads the accuracy of each head that has one from the metrics of an epoch."""
    parts = {tuple(key.split("/")): value for key, value in metrics.items()}
    return {key[1]: value for key, value in parts.items() if len(key) == 3 and key[::2] == ("val", "accuracy")}


def _make_unique(found: Sequence[Candidate]) -> list[Candidate]:
    """Puts the group before names that occur twice, and adds a number if they still do."""
    times = Counter(one.name for one in found)
    whole = [replace(one, name=f"{one.group}/{one.name}") if times[one.name] > 1 else one for one in found]
    times, seen = Counter(one.name for one in whole), Counter[str]()
    for i, one in enumerate(whole):
        seen[one.name] += 1
        if times[one.name] > 1:
            whole[i] = replace(one, name=f"{one.name}#{seen[one.name]}")
    return whole
