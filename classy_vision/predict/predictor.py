"""Predictions for images and videos: by runs, folders of models, exported files and published weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from classy_vision.config import ConfigError, first_line
from classy_vision.data.config import ClipConfig, DataConfig
from classy_vision.data.images import ImageError
from classy_vision.data.preprocessing import from_published, with_statistics
from classy_vision.export.compare import Batched
from classy_vision.heads.classy_head import ClassyHead
from classy_vision.heads.fully_convolutional_linear_head import FullyConvolutionalLinearHead
from classy_vision.identify.networks import load_model
from classy_vision.models import ClassyModel, build_model
from classy_vision.models.facts import find_use
from classy_vision.predict.inputs import check_memory, find_inputs, is_one, read_input
from classy_vision.predict.prediction import Prediction, make_answer
from classy_vision.predict.streaming import BATCH, Array, Output, one_by_one, stream
from classy_vision.predict.windows import OVERLAP, PixelOutput, Tiler, Window
from classy_vision.resolve import TRAINED, Kind, resolve
from classy_vision.train.config import TaskConfig
from classy_vision.train.job import check_packages
from classy_vision.train.run_folder import RunFolder
from classy_vision.train.tasks import KINDS, Classification, Task, average_views, run_views
from classy_vision.weights.catalogue import Published, is_published, labels, published

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
    """A trained model with what it takes to use it: ``Predictor.load(...)``, then ``predictor(image)``.

    Attributes:
        model: on its device, in evaluation mode.
        data: what it sees of an image or a video.
        tasks: by head.
        device: where the model is.
    """

    model: Network
    data: DataConfig
    tasks: Mapping[str, Task]
    device: torch.device

    # Loading

    @classmethod
    def load(
        cls, source: str | Path, *, device: str | torch.device | None = None, trust: bool = False
    ) -> Predictor:
        """The predictor of anything that was trained.

        Args:
            source: a finished run folder, a folder of ``save_pretrained``, a file of ``export``,
                "hf-hub:owner/repository", published weights ("timm/resnet50.a1_in1k"), or a file of weights.
            device: "cpu", "cuda", "cuda:1", …; by default a GPU where there is one. Exported files run
                on the CPU.
            trust: run the machine code in a package of AOTInductor.

        Raises:
            ConfigError: it is none of these, or does not say what its outputs mean.
        """
        place = find_device(device)
        found = resolve(source, TRAINED, "a predictor")
        path = str(found.path or found.name)
        if found.kind is Kind.EXPORTED:
            if place.type != "cpu" and device is not None:
                raise ConfigError(f"device = {str(device)!r}: exported files run on the CPU")
            from classy_vision.predict.exported import read_exported  # which most callers do not need

            return cls(*read_exported(path, trust=trust), device=torch.device("cpu"))
        if found.kind is Kind.PUBLISHED:
            return cls.of_weights(path, device=place)
        if found.kind is Kind.RUN:
            return cls._of_run(path, place)
        return cls.of_model(load_model(path), device=place)

    @classmethod
    def _of_run(cls, run: str, device: torch.device) -> Predictor:
        folder = RunFolder(Path(run))
        settings = folder.settings()
        check_packages(settings)
        if not folder.finished:
            raise ConfigError(f"{run!r} is not finished: classy train --resume {run}")
        tasks = {head: KINDS[task.kind](head, task) for head, task in settings.tasks.items()}
        return cls._of(ClassyModel.from_checkpoint(run), settings.data, tasks, device)

    @classmethod
    def of_model(cls, model: ClassyModel, *, device: str | torch.device | None = None) -> Predictor:
        """The predictor of a model that carries its labels, as those of runs and folders do.

        Heads of which nobody said what they mean are left out, unless there is one head alone: its
        classes are numbered then. Without preprocessing images are seen as in ``of_weights``.

        Raises:
            ConfigError: nobody said what any of several heads means, or the model takes no images.
        """
        use = find_use(model)
        data = find_data(model)
        heads = [head for entries in model.get_heads().values() for head in entries]
        for head in heads:
            _check_logits(head)
        tasks = {
            head.unique_id: _make_task(head.unique_id, use.tasks[head.unique_id])
            for head in heads
            if head.unique_id in use.tasks
        }
        if not tasks:
            task = task_of(model)
            tasks = {task.name: task}
        return cls._of(model, data, tasks, find_device(device))

    @classmethod
    def of_weights(
        cls,
        weights: str,
        model: str | Mapping[str, Any] | None = None,
        *,
        device: str | torch.device | None = None,
    ) -> Predictor:
        """The predictor of published weights, or of a file of weights.

        Images are seen as the weights' publisher says. Without one they are resized to the model's
        usual size, with the mean and standard deviation of ImageNet.

        Args:
            weights: a published name, or what else ``load_weights`` takes.
            model: the name or config of the network; of published weights it is known.
            device: as for ``load``.

        Raises:
            ConfigError: there are no such weights, or what their outputs mean is not known.
        """
        place = find_device(device)
        if model is None and not is_published(weights):
            raise ConfigError(
                f"weights = {weights!r} are not published: give their model too, which "
                f"classy weights show {weights} finds"
            )
        config = {"name": weights} if model is None else {"name": model} if isinstance(model, str) else model
        known = next((n for n in (weights, config["name"]) if isinstance(n, str) and is_published(n)), None)
        entry = published(known) if known else None
        if entry and model is None:
            _check_classes(entry)
        network = build_model(config, weights={"source": weights, "skip_heads": ()})
        task = task_of(network, entry)
        return cls._of(network, expected_data(network, entry), {task.name: task}, place)

    @classmethod
    def _of(
        cls, model: ClassyModel, data: DataConfig, tasks: Mapping[str, Task], device: torch.device
    ) -> Predictor:
        return cls(model.to(device).eval(), data, tasks, device)

    @property
    def unit(self) -> str:
        """What it takes: "image" or "video"."""
        return self.data.unit

    # Predicting

    @overload
    def __call__(self, source: Image.Image | bytes | BinaryIO, top: int = ...) -> Prediction: ...
    @overload
    def __call__(self, source: list[Any] | tuple[Any, ...], top: int = ...) -> list[Prediction]: ...
    @overload
    def __call__(self, source: Any, top: int = ...) -> Any: ...
    def __call__(self, source: Any, top: int = 5) -> Any:
        """The prediction of one input, or a list of those of several.

        Args:
            source: what ``predict`` takes. A folder and a batch are several.
            top: the most labels per head.

        Raises:
            ConfigError: ``source`` is one input, and cannot be read. Of several, each has its own error.
        """
        found = list(self.predict(source, top))
        if not is_one(source, self.data):
            return found
        (prediction,) = found
        if prediction.error:
            raise ImageError(Path(prediction.image), prediction.error)
        return prediction

    def predict(
        self,
        source: Any,
        top: int = 5,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        window: Window = "slide",
        overlap: float = OVERLAP,
    ) -> Generator[Prediction, None, None]:
        """The predictions of inputs, in their order, as they come; an unreadable one gives its error.

        An input is one of:

        - a file, by name (of an image, or of a video where the model is of videos); a folder stands for the
          files in it, with those in its folders;
        - an image of PIL, the bytes of an image file, or an open one;
        - pixels: an array (h, w) or (h, w, c), or a tensor (c, h, w), of uint8, with c = 1, 3 or 4;
        - a floating-point tensor (c, h, w), or (c, t, h, w) of a clip: it is preprocessed already, as
          ``preprocess`` gives it.

        Arrays and tensors with one more dimension in front are batches. Threads read inputs while the model
        runs, a batch ahead and no further: any number of them can come from an iterator.

        A head with an answer for each pixel gives one of the whole image, in its own size: ``answer.pixels``.
        ``predict.write_predictions`` writes those to files.

        Args:
            source: an input, or several in a list or any iterable.
            top: the most labels per head.
            batch_size: images or clips that the model sees at once, 32 by default.
            workers: threads that read, by default one per processor, at most 4.
            window: for answers for each pixel, "slide" moves a window of the size that the model was trained
                on over the image, scaled as in evaluation, and averages where windows overlap; "whole" shows
                the model all of the scaled image at once, which not every model takes.
            overlap: of windows side by side, as a part of their side.

        Raises:
            ConfigError: something is not an input, or a folder holds no images.
        """
        for one in self.outputs(source, batch_size=batch_size, workers=workers, window=window, overlap=overlap):
            size = one.size if isinstance(one, PixelOutput) else None
            answers = {
                head: make_answer(self.tasks[head].config.kind, self.tasks[head].classes, output, top, size)
                for head, output in one.outputs.items()
            }
            yield Prediction(one.input.name, answers, one.error)

    def outputs(
        self,
        source: Any,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        window: Window = "slide",
        overlap: float = OVERLAP,
    ) -> Generator[Output, None, None]:
        """As ``predict``, but the numbers of the heads, in arrays: logits, or what regression gives.

        Where a head answers for each pixel these are ``PixelOutput``, with maps (k, h', w') of whole images.
        """
        channels = self.model.input_shape[0]
        dense = [head for head, task in self.tasks.items() if task.dense]
        if not dense:
            run_all = self._stream if isinstance(self.model, Batched) else one_by_one(self._run)
            yield from stream(source, self.data, channels, run_all, batch_size=batch_size, workers=workers)
            return
        whole = len(dense) < len(self.tasks)
        tiler = Tiler(self.data, channels, self._run, dense, whole, window, overlap, batch_size or BATCH)
        yield from tiler.stream(source, workers)

    def preprocess(self, source: Any) -> Tensor:
        """Inputs as the model takes them: ``predictor.model(predictor.preprocess(image))``.

        Args:
            source: what ``predict`` takes.

        Returns:
            (n, c, h, w), or (n, c, t, h, w) of clips, float32, on the device of the model. An image
            gives one per crop, a video one per clip and crop.

        Raises:
            ConfigError: an input cannot be read.
        """
        channels = self.model.input_shape[0]
        views = [read_input(one, self.data, channels) for one in find_inputs(source, self.data)]
        if not views:
            raise ConfigError("there is no input to preprocess")
        return torch.from_numpy(np.concatenate(views)).to(self.device)

    @torch.inference_mode()
    def _run(self, views: Array) -> dict[str, Array]:
        outputs = run_views(self.model, torch.from_numpy(views).to(self.device), self.tasks)
        return {head: output.cpu().numpy() for head, output in outputs.items()}

    def _stream(self, batches: Iterator[Array]) -> Iterator[dict[str, Array]]:
        """As ``_run``, by an exported model, which may have several batches in work at a time."""
        assert isinstance(self.model, Batched)
        views: deque[int] = deque()

        def flatten() -> Iterator[Tensor]:
            for batch in batches:
                views.append(batch.shape[1])
                yield torch.from_numpy(batch).flatten(0, 1)

        for outputs in self.model.stream(flatten()):
            found = average_views(outputs, views.popleft(), self.tasks)
            yield {head: output.numpy() for head, output in found.items()}


def find_device(device: str | torch.device | None) -> torch.device:
    """A device by its name, or the one to use where none is given.

    Raises:
        ConfigError: it is not a device, or is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device = {str(device)!r} cannot be used: {first_line(error)}") from None
    return found


def _make_task(name: str, task: Mapping[str, Any]) -> Task:
    classes = task.get("classes")
    config = {"kind": task["kind"], **({"classes": tuple(classes)} if classes else {})}
    return KINDS[task["kind"]](name, TaskConfig.parse(config, f"tasks.{name}"))


def _check_classes(entry: Published) -> None:
    """Refuses weights that do not classify: their outputs are features, or an embedding like CLIP's."""
    if entry.outputs != "classes":
        raise ConfigError(
            f"{entry.name} gives {entry.outputs}, not classes: classy predict has nothing to name"
        )


def task_of(model: ClassyModel, entry: Published | None = None) -> Task:
    """A choice of the one head's classes, by name where they are published, else by number.

    Raises:
        ConfigError: there are several heads, or one that does not classify.
    """
    heads = [head for entries in model.get_heads().values() for head in entries]
    if len(heads) != 1 or not heads[0].num_classes:
        found = f"{len(heads)} heads" if len(heads) != 1 else "a head without classes"
        raise ConfigError(
            f"nobody said what the outputs mean: without that a model with one classifier is needed, and this "
            f"has {found}. save_pretrained(folder, run=RUN) writes what a run says"
        )
    (head,) = heads
    _check_logits(head)
    names = labels(entry.labels) if entry and entry.labels else ()
    if len(names) != head.num_classes:
        names = tuple(map(str, range(head.num_classes or 0)))
    return Classification(str(head.unique_id), TaskConfig(classes=names))


def _check_logits(head: ClassyHead) -> None:
    if isinstance(head, FullyConvolutionalLinearHead) and head.activation_func != "identity":
        raise ConfigError(
            f"head {head.unique_id!r}: activation_func = {head.activation_func!r} must be identity"
        )


def find_data(model: ClassyModel) -> DataConfig:
    """What a model sees of a file: as it says itself or its weights' publisher does, else as is usual.

    Raises:
        ConfigError: the model does not take images, or absurdly much memory would be needed.
    """
    data = expected_data(model)
    if (seen := find_use(model).preprocessing) is not None:
        data = with_statistics(DataConfig.parse(seen, "preprocessing"), model.input_shape[0])
    check_memory(data, model.input_shape[0], type(model).__name__)
    return data


def expected_data(model: ClassyModel, entry: Published | None = None) -> DataConfig:
    """What the weights expect, or what is usual; clips are torchvision's.

    Raises:
        ConfigError: the model does not take images.
    """
    if len(model.input_shape) < 3:
        raise ConfigError(f"{type(model).__name__} takes {model.input_shape[0]} values, not images")
    channels, *clip, _, side = model.input_shape
    seen: dict[str, Any] = {"image_size": side}
    if clip:
        published_clip = CLIP if entry is None or entry.preprocessing.clip is None else entry.preprocessing.clip
        seen["clip"] = published_clip if entry is not None else ClipConfig(frames=clip[0])
    if entry is not None:
        seen = {
            "clip": seen.get("clip"),
            **from_published(entry.preprocessing, DataConfig(clip=seen.get("clip"))),
        }
    return with_statistics(DataConfig(**seen), channels)
