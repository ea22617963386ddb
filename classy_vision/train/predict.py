"""Predictions of a trained run for files of images or videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel
from classy_vision.train.config import TrainConfig
from classy_vision.train.images import ImageError
from classy_vision.train.job import check_packages
from classy_vision.train.run_folder import RunFolder
from classy_vision.train.samples import read_views
from classy_vision.train.sources import SUFFIXES
from classy_vision.train.tasks import KINDS, Score, Task
from classy_vision.train.views import run_views

BATCH = 32
"""Images or clips that the model sees at once."""


@dataclass(frozen=True)
class Prediction:
    """What is said of one file.

    Attributes:
        image: its path, also of a video.
        scores: by head, the likeliest first.
        error: why there are none.
    """

    image: str
    scores: Mapping[str, Sequence[Score]] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Predictor:
    """A trained model with what it takes to use it on files.

    Attributes:
        model: on its device, in evaluation mode.
        settings: of the run.
        tasks: by head.
        device: where the model is.
    """

    model: ClassyModel
    settings: TrainConfig
    tasks: Mapping[str, Task]
    device: torch.device

    @classmethod
    def load(cls, run: str | Path) -> Predictor:
        """The predictor of a finished run folder.

        Raises:
            ConfigError: it is none.
        """
        folder = RunFolder(Path(run))
        settings = folder.settings()
        check_packages(settings)
        if not folder.finished:
            raise ConfigError(f"{str(run)!r} is not finished: classy train --resume {run}")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tasks = {head: KINDS[task.kind](head, task) for head, task in settings.tasks.items()}
        return cls(ClassyModel.from_checkpoint(run).to(device).eval(), settings, tasks, device)

    @property
    def unit(self) -> str:
        """What it takes: "image" or "video"."""
        return self.settings.data.unit

    def predict(self, images: Iterable[str | Path], top: int = 5) -> Iterator[Prediction]:
        """The predictions of files, in their order; an unreadable one gives its error.

        Args:
            images: files.
            top: the most labels per head.
        """
        rest, size = iter(images), max(1, BATCH // self.settings.data.views)
        while paths := [str(path) for path in islice(rest, size)]:
            yield from self._predict_batch(paths, top)

    @torch.inference_mode()
    def _predict_batch(self, paths: Sequence[str], top: int) -> Iterator[Prediction]:
        read = [self._read(path) for path in paths]
        samples = [views for views in read if isinstance(views, Tensor)]
        outputs: dict[str, Tensor] = {}
        if samples:
            outputs = run_views(self.model, torch.stack(samples).to(self.device), self.tasks)
        rows = iter(range(len(samples)))
        for path, views in zip(paths, read):
            if isinstance(views, ImageError):
                yield Prediction(path, error=views.reason)
                continue
            row = next(rows)
            scores = {h: task.scores(outputs[h][row].cpu(), top) for h, task in self.tasks.items()}
            yield Prediction(path, scores)

    def _read(self, path: str) -> Tensor | ImageError:
        try:
            return read_views(Path(path), self.settings.data, self.settings.model["in_channels"])
        except ImageError as error:
            return error


def find_images(arguments: Iterable[str], unit: str = "image") -> list[str]:
    """Files as they are; a folder stands for the images in it, in order.

    Args:
        arguments: files and folders.
        unit: what a folder stands for, "image" or "video".

    Raises:
        ConfigError: an empty name, or a folder without images.
    """
    found: list[str] = []
    for argument in arguments:
        if not argument:
            raise ConfigError(f"a file or folder of {unit}s is needed, not ''")
        path = Path(argument)
        inside = [str(p) for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES[unit]]
        if path.is_dir() and not inside:
            raise ConfigError(f"there is no {unit} in the folder {argument!r}")
        found += inside if path.is_dir() else [argument]
    return found
