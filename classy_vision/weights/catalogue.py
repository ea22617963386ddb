"""Published weights by name: which network they are of, and what goes with them.

The data are in ``data/timm.json``, ``data/torchvision.json`` and ``data/transformers.json``, a row per file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from classy_vision.config import unknown

HUB = "hf-hub:"
"""Before the name of a repository."""
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
        UnknownNameError: there are none; the message has the nearest names.
    """
    if (repository := _find_repository(name)) is not None:
        return Published.from_row(f"{HUB}{repository}", _read_rows(REPOSITORIES)[repository])
    source, _, tag = name.partition("/")
    if source not in SOURCES or tag not in _read_rows(source):
        raise unknown("published weights", name, names())
    return Published.from_row(name, _read_rows(source)[tag])


def _find_repository(name: str) -> str | None:
    """The repository that ``name`` means, whatever its revision, where it is one of ours."""
    repository = name.removeprefix(HUB).partition("@")[0] if name.startswith(HUB) else ""
    return repository if repository in _read_rows(REPOSITORIES) else None


def is_published(name: str) -> bool:
    """Whether ``name`` begins as those of published weights do, or is a repository that is known here."""
    if name.startswith(HUB):
        return _find_repository(name) is not None
    return name.partition("/")[0] in SOURCES and "/" in name


@cache
def labels(name: str) -> tuple[str, ...]:
    """The names of the classes in a labelling, in the order of the outputs."""
    return tuple((DATA / f"{name}.txt").read_text().splitlines())
