"""Predictions for files of images or videos, of a trained run or of published weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.heads.fully_convolutional_linear_head import FullyConvolutionalLinearHead
from classy_vision.models import ClassyModel, build_model
from classy_vision.train.config import TaskConfig
from classy_vision.train.data_config import ClipConfig, DataConfig
from classy_vision.train.images import ImageError
from classy_vision.train.job import check_packages
from classy_vision.train.prediction import Prediction as Prediction
from classy_vision.train.prediction import find_images as find_images
from classy_vision.train.preprocessing import with_statistics
from classy_vision.train.run_folder import RunFolder
from classy_vision.train.samples import read_views
from classy_vision.train.tasks import KINDS, Classification, Task
from classy_vision.train.views import run_views
from classy_vision.weights.catalogue import Published, is_published, labels, published

BATCH = 32
"""Images or clips that the model sees at once."""
CLIP = ClipConfig(frames=16, fps=15, clips=5)
"""Those on which the published accuracies of torchvision's video models are measured."""


class Network(Protocol):
    """What predicts: a model, or what was exported of one."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(c, h, w) or (c, t, h, w)."""

    def __call__(self, images: Tensor) -> Any:
        """A tensor (n, k), or several by head."""


@dataclass(frozen=True)
class Predictor:
    """A trained model with what it takes to use it on files.

    Attributes:
        model: on its device, in evaluation mode.
        data: what it sees of a file.
        tasks: by head.
        device: where the model is.
    """

    model: Network
    data: DataConfig
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
        tasks = {head: KINDS[task.kind](head, task) for head, task in settings.tasks.items()}
        return cls._of(ClassyModel.from_checkpoint(run), settings.data, tasks)

    @classmethod
    def of_weights(cls, weights: str, model: str | Mapping[str, Any] | None = None) -> Predictor:
        """The predictor of published weights, or of a file of weights.

        Images are seen as the weights' publisher says. Without one they are resized to the model's
        usual size, with the mean and standard deviation of ImageNet.

        Args:
            weights: a published name, or what else ``load_weights`` takes.
            model: the name or config of the network; of published weights it is known.

        Raises:
            ConfigError: there are no such weights, or what their outputs mean is not known.
        """
        if model is None and not is_published(weights):
            raise ConfigError(
                f"weights = {weights!r} are no published ones: give their model too, which "
                f"classy weights show {weights} finds"
            )
        config = {"name": weights} if model is None else {"name": model} if isinstance(model, str) else model
        known = next((n for n in (weights, config["name"]) if isinstance(n, str) and is_published(n)), None)
        entry = published(known) if known else None
        if entry and model is None:
            _check_classes(entry)
        network = build_model(config, weights={"source": weights, "skip_heads": ()})
        task = task_of(network, entry)
        return cls._of(network, expected_data(network, entry), {task.name: task})

    @classmethod
    def _of(cls, model: ClassyModel, data: DataConfig, tasks: Mapping[str, Task]) -> Predictor:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model.to(device).eval(), data, tasks, device)

    @property
    def unit(self) -> str:
        """What it takes: "image" or "video"."""
        return self.data.unit

    def predict(self, images: Iterable[str | Path], top: int = 5) -> Iterator[Prediction]:
        """The predictions of files, in their order; an unreadable one gives its error.

        Args:
            images: files.
            top: the most labels per head.
        """
        rest, size = iter(images), max(1, BATCH // self.data.views)
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
            return read_views(Path(path), self.data, self.model.input_shape[0])
        except ImageError as error:
            return error


def _check_classes(entry: Published) -> None:
    """Refuses what is no classifier: features, or an embedding as CLIP's."""
    if entry.outputs != "classes":
        raise ConfigError(
            f"{entry.name} gives no classes but {entry.outputs}: classy predict has nothing to name"
        )


def task_of(model: ClassyModel, entry: Published | None = None) -> Task:
    """A choice of the one head's classes, by name where they are published, else by number.

    Raises:
        ConfigError: there are several heads, or one that is no classifier.
    """
    heads = [head for entries in model.get_heads().values() for head in entries]
    if len(heads) != 1 or not heads[0].num_classes:
        found = f"{len(heads)} heads" if len(heads) != 1 else "a head without classes"
        raise ConfigError(f"weights without a run need a model with one classifier, and this has {found}")
    (head,) = heads
    if isinstance(head, FullyConvolutionalLinearHead) and head.activation_func != "identity":
        raise ConfigError(
            f"head {head.unique_id!r}: activation_func = {head.activation_func!r} must be identity"
        )
    names = labels(entry.labels) if entry and entry.labels else ()
    if len(names) != head.num_classes:
        names = tuple(map(str, range(head.num_classes or 0)))
    return Classification(str(head.unique_id), TaskConfig(classes=names))


def expected_data(model: ClassyModel, entry: Published | None = None) -> DataConfig:
    """What the weights expect, or what is usual; clips are torchvision's.

    Raises:
        ConfigError: the model does not take images.
    """
    if len(model.input_shape) < 3:
        raise ConfigError(f"{type(model).__name__} takes {model.input_shape[0]} values, not images")
    channels, *clip, _, side = model.input_shape
    seen: dict[str, Any] = {"image_size": side}
    if entry is not None:
        seen = dict(vars(entry.preprocessing))
    if clip:
        seen["clip"] = CLIP if entry is not None else ClipConfig(frames=clip[0])
    return with_statistics(DataConfig(**seen), channels)
