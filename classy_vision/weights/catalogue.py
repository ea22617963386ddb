"""Published weights by name: which network they are of, and what goes with them.

The data are in ``data/timm.json``, ``data/torchvision.json`` and ``data/transformers.json``, a row per file.
``data/left_out.json`` has the architectures of timm and torchvision that have no network here, each with its
parameters, and reasons.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

from classy_vision.errors import FEW, UnknownNameError, find_nearest, shown, unknown
from classy_vision.presets import is_model
from classy_vision.weights.licenses import find_restriction

HUB = "hf-hub:"
"""Before the name of a repository."""
TORCHVISION = "https://download.pytorch.org/models"
DATA = Path(__file__).with_name("data")
SOURCES = ("timm", "torchvision")
REPOSITORIES = "transformers"
"""The rows of repositories that hold weights in transformers' layouts; "hf-hub:" stands before their names."""


@dataclass(frozen=True)
class Preprocessing:
    """From an image or a clip to the tensor that the weights were trained on.

    Attributes:
        image_size: height and width in pixels.
        resize: the shorter side before the centre crop; height and width where they are given
            both, as ``(height, width)``.
        interpolation: "bilinear" or "bicubic".
        mean, std: per channel, of values from 0 to 1.
        clip: which frames of a video they are of, in keys of ``data.clip`` of a training config.
    """

    image_size: int
    resize: int | tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Published:
    """One published file of weights.

    Attributes:
        name: "timm/resnet50.a1_in1k", "torchvision/resnet50.IMAGENET1K_V2", "hf-hub:MCG-NJU/videomae-base".
        config: of the network, for ``build_model``.
        params: its number of parameters, the classifier's among them.
        outputs: "classes"; "features" of a network without a classifier; or "embeddings" in a
            space that images share with texts (CLIP).
        preprocessing: what the weights expect.
        labels: the names of the classes: "imagenet_1k", "kinetics_400", or None if they are others.
        top1: accuracy in percent on those, as its publisher says; None if the publisher does not say.
        license: as its publisher says; None if the publisher does not say.
        place: a repository of the Hugging Face hub, or the name of a file of torchvision's.
    """

    name: str
    config: Mapping[str, Any]
    params: int
    outputs: Literal["classes", "features", "embeddings"]
    preprocessing: Preprocessing
    labels: str | None
    top1: float | None
    license: str | None
    place: str

    @property
    def address(self) -> str:
        """Where the weights are: the page of a repository, or the file itself."""
        return f"https://huggingface.co/{self.place}" if "/" in self.place else f"{TORCHVISION}/{self.place}"

    @classmethod
    def from_row(cls, name: str, row: Mapping[str, Any]) -> Published:
        values = dict(row["preprocessing"])
        values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(name=name, **{**row, "preprocessing": Preprocessing(**values)})


@cache
def _read_rows(source: str) -> dict[str, Any]:
    rows: dict[str, Any] = json.loads((DATA / f"{source}.json").read_text())
    return rows


def names() -> list[str]:
    """Every published name."""
    files = [f"{source}/{name}" for source in SOURCES for name in _read_rows(source)]
    return [*files, *(f"{HUB}{name}" for name in _read_rows(REPOSITORIES))]


def published(name: str) -> Published:
    """The weights that ``name`` stands for.

    Raises:
        UnknownNameError: there are none; the message has the nearest names, and says where its library has
            such weights.
    """
    if (repository := _find_repository(name)) is not None:
        return Published.from_row(f"{HUB}{repository}", _read_rows(REPOSITORIES)[repository])
    source, _, tag = name.partition("/")
    if source not in SOURCES or tag not in _read_rows(source):
        raise _describe_missing(name)
    return Published.from_row(name, _read_rows(source)[tag])


def _find_repository(name: str) -> str | None:
    """The repository that ``name`` means, whatever its revision, where it is one of ours."""
    repository = name.removeprefix(HUB).partition("@")[0] if name.startswith(HUB) else ""
    return repository if repository in _read_rows(REPOSITORIES) else None


def is_published(name: str) -> bool:
    """Whether ``name`` begins as those of published weights do, or is a repository that is known here.

    A file that is there is a file.
    """
    if name.startswith(HUB):
        return _find_repository(name) is not None
    begins = name.partition("/")[0] in SOURCES and "/" in name
    return begins and not os.path.exists(os.path.expanduser(name))


@cache
def labels(name: str) -> tuple[str, ...]:
    """The names of the classes in a labelling, in the order of the outputs."""
    return tuple((DATA / f"{name}.txt").read_text().splitlines())


# -- names that are not here


TAGS = 4
"""So many names of an architecture's files a message lists."""
TAG_CUTOFF = 0.9
"""Similarity from which a name with a tag is taken for a slip of another; most of it is the architecture."""
ALIKE = 0.25
"""Networks whose numbers of parameters differ by this share at most are of one size."""

SMALL = 256
"""Pixels of small images."""


class LeftOut(NamedTuple):
    """An architecture of another library that has no network here.

    Attributes:
        library: "timm" or "torchvision".
        family: what the library calls its module.
        name: of the architecture.
        params: its number of parameters.
        reason: why it is left out; None where its whole family is.
    """

    library: str
    family: str
    name: str
    params: int
    reason: str | None


@cache
def _read_left_out() -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = json.loads((DATA / "left_out.json").read_text())
    return found


def list_left_out() -> Iterator[LeftOut]:
    """Yields what timm and torchvision publish weights of, and we have no network for."""
    for library, families in _read_left_out().items():
        for family, entry in families.items():
            for name, params in entry["left_out"].items():
                yield LeftOut(library, family, name, params, entry.get("reasons", {}).get(name))


def _architectures(library: str) -> dict[str, list[str]]:
    """The names of the files of each architecture: free ones first, then those with the best top-1."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names():
        if name.startswith(f"{library}/"):
            found[_split(name)[1]].append(name)
    return {architecture: sorted(files, key=_rank) for architecture, files in found.items()}


def _rank(name: str) -> tuple[bool, float]:
    entry = published(name)
    return find_restriction(entry.license) is not None, -(entry.top1 or 0)


def _split(name: str) -> tuple[str, str, str]:
    library, _, rest = name.partition("/")
    architecture, _, tag = rest.partition(".")
    return library, architecture, tag


def _describe_missing(name: str) -> UnknownNameError:
    """Returns the error for a name of published weights that do not exist here."""
    library, architecture, tag = _split(name)
    if library not in SOURCES:
        return unknown("published weights", name, names())
    here = _architectures(library)
    if architecture in here:
        return _describe_tag(name, tag, here[architecture])
    for entry in list_left_out():
        if (entry.library, entry.name) == (library, architecture):
            return _describe_left_out(name, entry)
    near = find_nearest(architecture, here)
    if near is None:
        return UnknownNameError(
            f"unknown published weights {shown(name)}, and no name is near: classy weights list has them all"
        )
    return _describe_tag(name, tag, here[near])


def _describe_tag(name: str, tag: str, there: list[str]) -> UnknownNameError:
    """The error for a file that its architecture does not have, or for none where the tag is left out."""
    tags = {_split(entry)[2]: entry for entry in there}
    near = [tags[key] for key in get_close_matches(tag, tags, 1)] or there[: 1 if len(there) == 1 else 0]
    text = f"unknown published weights {shown(name)}; "
    return UnknownNameError(text + (f"did you mean {near[0]!r}?" if near else f"there are {_list(there)}"))


def _list(found: Collection[str]) -> str:
    few = list(found)[:TAGS] if len(found) > FEW // 2 else list(found)
    rest = len(found) - len(few)
    return ", ".join(map(repr, few)) + (f" and {rest} more: classy weights list" if rest else "")


def _describe_left_out(name: str, entry: LeftOut) -> UnknownNameError:
    reason = entry.reason or f"nor have others of its family, {entry.family}"
    text = f"unknown model {shown(name)}: {entry.library}'s {entry.name} has no network here ({reason})"
    if entry.reason and (near := _find_near(entry.name, _architectures(entry.library))):
        text += f"; near it is {near!r}"
    elif alike := _find_of_size(entry.params):
        text += f"; of its size is {alike!r}"
    return UnknownNameError(
        f"{text}. The module of {entry.library} becomes a trunk by ClassyModel.from_model(module, blocks)"
    )


def _find_near(name: str, here: Mapping[str, list[str]]) -> str | None:
    """Returns a file of the architecture that begins as ``name`` does, and of those the most similar one."""
    near = get_close_matches(name, here, 12)
    best = max(near, key=lambda other: _count_alike(name, other), default=None)
    return here[best][0] if best else None


def _count_alike(name: str, other: str) -> int:
    """Counts the letters with which both begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(name, other)))


def _find_of_size(params: int) -> str | None:
    """Returns the most accurate free classifier of ImageNet of about so many parameters, for small images."""
    entries = [
        entry
        for entry in map(published, names())
        if entry.labels == "imagenet_1k"
        and entry.preprocessing.image_size <= SMALL
        and find_restriction(entry.license) is None
        and abs(entry.params / params - 1) <= ALIKE
    ]
    return max(entries, key=lambda entry: entry.top1 or 0).name if entries else None


def check_bare(name: object) -> None:
    """Raises where ``name`` is what timm or torchvision call a model, and nothing here is called so.

    Raises:
        UnknownNameError: says the name with its library, or why there is none.
    """
    if isinstance(name, str) and not is_model(name) and (error := _describe_bare(name)):
        raise error


def _describe_bare(name: str) -> UnknownNameError | None:
    for library in SOURCES:
        _, architecture, tag = _split(f"{library}/{name}")
        if there := _architectures(library).get(architecture):
            return _describe_with_library(name, tag, library, there)
        for entry in list_left_out():
            if (entry.library, entry.name) == (library, architecture):
                return _describe_left_out(name, entry)
    return None


def _describe_with_library(name: str, tag: str, library: str, there: list[str]) -> UnknownNameError:
    near = get_close_matches(f"{library}/{name}", there, 1, TAG_CUTOFF) if tag else []
    if near:
        return UnknownNameError(f"unknown model {shown(name)}; did you mean {near[0]!r}?")
    text = f"{shown(name)} is a name of {library}'s; here it is {_list(there)}"
    config = published(there[0]).config
    if config.keys() <= {"name", "num_classes", "padding", "bn_epsilon"}:
        text += f"; the network alone is {config['name']!r}"
    return UnknownNameError(text)
