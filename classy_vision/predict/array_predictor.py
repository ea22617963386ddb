"""Predictions of ONNX and OpenVINO files for images, without torch."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from classy_vision.config import ConfigError
from classy_vision.data.config import DataConfig
from classy_vision.export.exported_model import ExportedModel
from classy_vision.export.metadata import Head
from classy_vision.predict.inputs import check_memory
from classy_vision.predict.prediction import Prediction, make_answer
from classy_vision.predict.streaming import BATCH, Array, Output, stream
from classy_vision.predict.windows import OVERLAP, PixelOutput, Tiler
from classy_vision.train.config import DENSE


def input_of(exported: ExportedModel) -> DataConfig:
    """Reads how files become the input of an exported model.

    Raises:
        ConfigError: it does not say so, says what its input is not, or does not say what a head means, or
            takes absurdly much memory for one file.
    """
    path, metadata = exported.path, exported.metadata
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
    check_memory(data, channels, str(path))
    return data


@dataclass(frozen=True)
class ArrayPredictor:
    """An exported model of images with what it takes to use it.

    Attributes:
        exported: takes arrays.
        data: what it sees of an image.

    Raises:
        ConfigError: it sees several crops of an image, over which ``Predictor`` averages.
    """

    exported: ExportedModel
    data: DataConfig

    def __post_init__(self) -> None:
        if self.data.views > 1:
            raise ConfigError(
                f"preprocessing.crops = {self.data.crops}: Predictor.load averages over them, with torch"
            )

    @property
    def unit(self) -> str:
        """What it takes."""
        return self.data.unit

    @property
    def tasks(self) -> Mapping[str, Head]:
        """What the outputs mean, by head."""
        return self.exported.metadata.heads

    def predict(
        self,
        source: Any,
        top: int = 5,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        overlap: float = OVERLAP,
    ) -> Generator[Prediction, None, None]:
        """As ``Predictor.predict``.

        Raises:
            ConfigError: something is not an input, or a folder holds no images.
        """
        channels = len(self.data.mean or ())
        size = min(batch_size or BATCH, self.exported.metadata.max_batch)
        dense = [name for name, head in self.tasks.items() if head.kind in DENSE]
        whole = len(dense) < len(self.tasks)
        if dense:
            tiler = Tiler(self.data, channels, self._run, dense, whole, overlap=overlap, batch_size=size)
            outputs = cast(Generator[Output, None, None], tiler.stream(source, workers))
        else:
            outputs = stream(source, self.data, channels, self._run_all, batch_size=size, workers=workers)
        for one in outputs:
            answers = {}
            pixels = one.size if isinstance(one, PixelOutput) else None
            for name, output in one.outputs.items():
                head = self.tasks[name]
                assert head.kind is not None
                answers[name] = make_answer(head.kind, head.classes, output, top, pixels)
            yield Prediction(one.input.name, answers, one.error)

    def _run(self, views: Array) -> dict[str, Array]:
        """The outputs (n, k, ...) for one batch of images (n, 1, c, h, w)."""
        (found,) = self._run_all(iter([views]))
        return found

    def _run_all(self, batches: Iterator[Array]) -> Iterator[dict[str, Array]]:
        """The outputs (n, k) for each of many batches of images (n, 1, c, h, w)."""
        return self.exported.stream(views[:, 0] for views in batches)
