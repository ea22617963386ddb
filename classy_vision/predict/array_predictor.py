"""Predictions of ONNX files for images, by ONNX Runtime, Pillow and numpy: without torch."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from classy_vision.config import ConfigError
from classy_vision.data.config import DataConfig
from classy_vision.export.exported_model import ExportedModel
from classy_vision.export.metadata import MAX_VALUES, Head
from classy_vision.predict.answers import answer_of
from classy_vision.predict.prediction import Prediction
from classy_vision.predict.streaming import BATCH, Array, stream


def input_of(artefact: ExportedModel) -> DataConfig:
    """How files become the input of an exported model.

    Raises:
        ConfigError: it does not say so, says what its input is not, or does not say what a head means, or
            takes absurdly much memory for one file.
    """
    path, metadata = artefact.path, artefact.metadata
    if metadata.preprocessing is None:
        raise ConfigError(f"{str(path)!r} does not say how images become its input")
    data = DataConfig.parse(metadata.preprocessing, f"{path}: preprocessing")
    for name, head in metadata.heads.items():
        if head.kind is None:
            raise ConfigError(
                f"{str(path)!r} does not say what head {name!r} means: load_exported gives its numbers"
            )
    channels = metadata.input_shape[1]
    if channels is None or not data.mean or not data.std or not len(data.mean) == len(data.std) == channels:
        raise ConfigError(f"{str(path)!r}: mean and std are not those of {channels} channels")
    shape = data.input_shape(channels, training=False)
    metadata.check_input((1, *shape))
    _check_room(data, shape, str(path))
    return data


def _check_room(data: DataConfig, shape: Sequence[int], where: str) -> None:
    """Raises where preprocessing would take absurdly much memory for one file.

    Raises:
        ConfigError: it would.
    """
    sides = data.resize if isinstance(data.resize, tuple) else (data.resize or 1,) * 2
    views = math.prod(shape) * (data.clip.clips * data.clip.crops if data.clip else 1)
    resized = math.prod((*shape[:-2], *sides))
    if max(views, resized) > MAX_VALUES:
        raise ConfigError(
            f"{where!r}: its preprocessing makes {max(views, resized):,} values of one {data.unit}, "
            f"of at most {MAX_VALUES:,}"
        )


@dataclass(frozen=True)
class ArrayPredictor:
    """An exported model of images with what it takes to use it.

    Attributes:
        artefact: takes arrays.
        data: what it sees of an image.
    """

    artefact: ExportedModel
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
        self, source: Any, top: int = 5, *, batch_size: int | None = None, workers: int | None = None
    ) -> Generator[Prediction, None, None]:
        """As ``Predictor.predict``.

        Raises:
            ConfigError: something is no input, or a folder holds no images.
        """
        channels = len(self.data.mean or ())
        size = min(batch_size or BATCH, self.artefact.metadata.max_batch)
        outputs = stream(source, self.data, channels, self._run_all, batch_size=size, workers=workers)
        for one in outputs:
            answers = {}
            for name, output in one.outputs.items():
                head = self.tasks[name]
                assert head.kind is not None
                answers[name] = answer_of(head.kind, head.classes, output, top)
            yield Prediction(one.input.name, answers, one.error)

    def _run_all(self, batches: Iterator[Array]) -> Iterator[dict[str, Array]]:
        """The outputs (n, k) for each of many batches of images (n, 1, c, h, w)."""
        outputs = self.artefact.stream(views[:, 0] for views in batches)
        return (check_outputs(self.artefact, found) for found in outputs)


def check_outputs(artefact: ExportedModel, outputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the outputs of an exported model.

    Raises:
        ConfigError: they are not what its metadata say.
    """
    for name, output in outputs.items():
        artefact.metadata.heads[name].check_output(name, tuple(output.shape))
    return outputs
