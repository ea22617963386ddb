"""Predictions of ONNX files for images, by ONNX Runtime, Pillow and numpy: without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from classy_vision.config import ConfigError
from classy_vision.deploy.artefact import Artefact
from classy_vision.deploy.metadata import Head
from classy_vision.train.data_config import DataConfig
from classy_vision.train.images import ImageError, open_image
from classy_vision.train.prediction import Prediction, Score
from classy_vision.train.preprocessing import Preprocessing

Array = np.ndarray[Any, Any]
BATCH = 32


def input_of(artefact: Artefact) -> DataConfig:
    """How files become the input of an exported model.

    Raises:
        ConfigError: it does not say so, says what its input is not, or does not say what a head means.
    """
    path, metadata = artefact.path, artefact.metadata
    if metadata.preprocessing is None:
        raise ConfigError(f"{str(path)!r} does not say how images become its input")
    data = DataConfig.parse(metadata.preprocessing, f"{path}: preprocessing")
    for name, head in metadata.heads.items():
        if head.kind is None:
            raise ConfigError(
                f"{str(path)!r} does not say what head {name!r} means: load_artefact gives its numbers"
            )
    channels = metadata.input_shape[1]
    if channels is None or not data.mean or not data.std or not len(data.mean) == len(data.std) == channels:
        raise ConfigError(f"{str(path)!r}: mean and std are not those of {channels} channels")
    metadata.check_input((1, *data.input_shape(channels, training=False)))
    return data


@dataclass(frozen=True)
class ArrayPredictor:
    """An exported model of images with what it takes to use it on files.

    Attributes:
        artefact: takes arrays.
        data: what it sees of a file.
    """

    artefact: Artefact
    data: DataConfig

    @property
    def unit(self) -> str:
        """What it takes."""
        return self.data.unit

    @property
    def tasks(self) -> Mapping[str, Head]:
        """What the outputs mean, by head."""
        return self.artefact.metadata.heads

    def predict(
        self, images: Iterable[str | Path], top: int = 5, *, batch_size: int = BATCH
    ) -> Iterator[Prediction]:
        """The predictions of files, in their order; an unreadable one gives its error.

        Args:
            images: files.
            top: the most labels per head.
            batch_size: images that the model sees at once, where it takes as many.
        """
        rest, size = iter(images), min(batch_size, self.artefact.metadata.max_batch)
        while paths := [str(path) for path in islice(rest, size)]:
            yield from self._predict_batch(paths, top)

    def _predict_batch(self, paths: Sequence[str], top: int) -> Iterator[Prediction]:
        read = [self._read(path) for path in paths]
        samples = [image for image in read if not isinstance(image, ImageError)]
        outputs = self._run(np.stack(samples)) if samples else {}
        rows = iter(range(len(samples)))
        for path, image in zip(paths, read):
            if isinstance(image, ImageError):
                yield Prediction(path, error=image.reason)
                continue
            row = next(rows)
            scores = {name: _scores(head, outputs[name][row], top) for name, head in self.tasks.items()}
            yield Prediction(path, scores)

    def _read(self, path: str) -> Array | ImageError:
        see = Preprocessing(self.data)
        try:
            return see.array(see.crop(open_image(Path(path), len(self.data.mean or ()))))
        except ImageError as error:
            return error

    def _run(self, images: Array) -> Mapping[str, Array]:
        outputs = self.artefact(images)
        for name, output in outputs.items():
            self.artefact.metadata.heads[name].check_output(name, output.shape)
        return outputs


def _scores(head: Head, output: Array, top: int) -> list[Score]:
    """The likeliest labels of one output (k,), or its number."""
    assert head.kind is not None
    if head.kind == "regression":
        return [(f"{output[0]:.4g}", None)]
    probabilities = _PROBABILITIES[head.kind](output.astype(np.float32))
    codes = np.argsort(-probabilities, kind="stable")[:top]
    return [(head.classes[code], float(probabilities[code])) for code in codes]


def _softmax(x: Array) -> Array:
    raised = np.exp(x - x.max())
    return np.asarray(raised / raised.sum())


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))  # without overflow


_PROBABILITIES: dict[str, Callable[[Array], Array]] = {"classification": _softmax, "multilabel": _sigmoid}
