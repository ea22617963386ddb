"""Predictions with an answer for each pixel, written to a folder as they come. Nothing here needs torch.

For each image a folder holds ``HEAD/NAME.png`` (indexed, with the numbers of classes) or ``HEAD/NAME.tif``
(numbers in float32). ``predictions.jsonl`` has a line per image whose files are complete, and ``about.json``
says what they are of. What was killed and is started again leaves out the images that have a line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from PIL import Image

from classy_vision.atomic import replacing
from classy_vision.config import system_error
from classy_vision.data.files import walk
from classy_vision.data.masks import make_palette
from classy_vision.errors import ConfigError
from classy_vision.predict.inputs import Input
from classy_vision.predict.prediction import Answer, Prediction
from classy_vision.run_files import WEIGHTS
from classy_vision.train.config import DENSE

ABOUT = "about.json"
PREDICTIONS = "predictions.jsonl"


class AnyPredictor(Protocol):
    """What predicts."""

    @property
    def unit(self) -> str:
        """What it takes."""

    @property
    def tasks(self) -> Mapping[str, Any]:
        """By head."""

    @property
    def predict(self) -> Callable[..., Generator[Prediction, None, None]]:
        """See ``Predictor.predict``."""


def write_predictions(
    predictor: AnyPredictor,
    source: str | Path | Iterable[str | Path],
    output: str | Path,
    top: int = 5,
    *,
    model: str = "",
    **options: Any,
) -> Generator[Prediction, None, None]:
    """Predicts images, and writes answers for each pixel to files in a folder as they come.

    Answers that were written have their ``file`` instead of their ``pixels``. Images that were done when this
    was stopped are left out.

    Args:
        predictor: with a head that answers for each pixel.
        source: files and folders.
        output: the folder, which is made. Files of the images in a folder are laid out as these are.
        top: the most labels per head.
        model: what the folder says of which model its files are.
        options: of ``predictor.predict``.

    Raises:
        ConfigError: no head answers for each pixel, the folder is of something else, two images would have
            the same file, or something cannot be written.
    """
    kinds = {head: _kind(task) for head, task in predictor.tasks.items()}
    if not any(kind in DENSE for kind in kinds.values()):
        raise ConfigError(
            "--output is for heads with an answer for each pixel (segmentation, dense_regression), and the "
            "model has none: --format prints the others"
        )
    heads = {head: [kind, *predictor.tasks[head].classes] for head, kind in kinds.items()}
    kept = {name: value for name, value in options.items() if name not in ("batch_size", "workers")}
    about = {"model": model, "weights": _date(model), "heads": heads, **kept}
    folder = _Folder(Path(os.path.expanduser(output)), about, kinds)
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    with folder.open() as log:
        waiting = folder.find_new(sources, predictor.unit)
        for prediction in predictor.predict(waiting, top, **options):
            yield folder.write(prediction, log)


def _date(model: str) -> int | None:
    """When the file of a model, or the weights in its folder, were written."""
    path = Path(os.path.expanduser(model))
    file = path / WEIGHTS if path.is_dir() else path
    return file.stat().st_mtime_ns if model and file.is_file() else None


def _kind(task: Any) -> str:
    """The kind of a task, or of a head of an exported file."""
    return str(task.config.kind if hasattr(task, "config") else task.kind)


@dataclass
class _Folder:
    """Where predictions are written.

    Attributes:
        path: of the folder.
        about: what its files are of, as JSON values.
        kinds: of tasks, by head.
    """

    path: Path
    about: Mapping[str, Any]
    kinds: Mapping[str, str]
    _names: dict[str, str] = field(default_factory=dict)
    """What files of an image are called, without a suffix."""
    _images: dict[str, str] = field(default_factory=dict)
    """The same the other way round."""
    _done: set[str] = field(default_factory=set)

    def open(self) -> TextIO:
        """Makes the folder, or reads what is done in it; gives the open file of predictions."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._check_about()
            for part in self.path.rglob(".*.part"):  # of a process that was killed
                part.unlink(missing_ok=True)
            log = self.path / PREDICTIONS
            if log.is_file():
                self._read_log(log)
            return log.open("a", encoding="utf-8")
        except OSError as error:
            raise system_error(error, f"cannot write {str(self.path)!r}") from None

    def _check_about(self) -> None:
        file, said = self.path / ABOUT, json.dumps(self.about, indent=2) + "\n"
        if not file.is_file():
            if any(self.path.iterdir()):
                raise ConfigError(f"{str(self.path)!r} holds something else: choose another --output")
            with replacing(file) as beside:
                beside.write_text(said, encoding="utf-8")
        elif file.read_text(encoding="utf-8") != said:
            raise ConfigError(
                f"{str(self.path)!r} holds predictions of another model or of other options, as {ABOUT} in it "
                f"says: choose another --output"
            )

    def _read_log(self, log: Path) -> None:
        """Finds what is done; a last line that is not whole is removed."""
        end = 0
        with log.open("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                end += len(line)
                told = json.loads(line)
                if all((self.path / file).is_file() for file in told["files"].values()):
                    self._done.add(told["image"])
        os.truncate(log, end)

    def find_new(self, sources: Iterable[str | Path], unit: str) -> Iterator[Input]:
        """The images that are not done, lazily; one that is named twice comes once.

        Raises:
            ConfigError: two images would have the same file.
        """
        for source in sources:
            root = os.path.expanduser(source)
            within = root if os.path.isdir(root) else os.path.dirname(root)
            for path in walk(source, unit):
                if path in self._names:
                    continue
                self._names[path] = name = os.path.splitext(os.path.relpath(path, within or "."))[0]
                other = self._images.setdefault(name, path)
                if other != path:
                    raise ConfigError(
                        f"{other} and {path} would both be written to {name!r} in {str(self.path)!r}: rename "
                        f"one, or predict them into two folders"
                    )
                if path not in self._done:
                    yield Input(path, Path(path))

    def write(self, prediction: Prediction, log: TextIO) -> Prediction:
        """Writes the files of an image, and then its line; gives the prediction without the pixels."""
        name = self._names[prediction.image]
        if prediction.error:
            return prediction
        answers, files = {}, {}
        for head, answer in prediction.answers.items():
            if answer.pixels is not None:
                file = Path(head, name + _SUFFIXES[answer.kind])
                self._write_file(self.path / file, answer)
                files[head] = file.as_posix()
                answer = replace(answer, pixels=None, file=str(self.path / file))
            answers[head] = answer
        done = replace(prediction, answers=answers)
        log.write(json.dumps({**done.as_dict(), "files": files}) + "\n")
        log.flush()
        return done

    def _write_file(self, path: Path, answer: Answer) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as beside:
                _WRITERS[answer.kind](answer, beside)
        except OSError as error:
            raise system_error(error, f"cannot write {str(path)!r}") from None


def _write_mask(answer: Answer, path: Path) -> None:
    """An indexed PNG; with more than 256 classes one of 16 bits."""
    assert answer.pixels is not None
    codes = answer.pixels
    image = Image.fromarray(codes if codes.dtype == np.uint8 else codes.astype(np.uint16))
    if image.mode == "L":
        image.putpalette(make_palette().tobytes())
    image.save(path, "PNG")


def _write_map(answer: Answer, path: Path) -> None:
    """A TIFF of float32."""
    assert answer.pixels is not None
    Image.fromarray(answer.pixels.astype(np.float32)).save(path, "TIFF")


_SUFFIXES = {"segmentation": ".png", "dense_regression": ".tif"}
_WRITERS: dict[str, Callable[[Answer, Path], None]] = {
    "segmentation": _write_mask,
    "dense_regression": _write_map,
}
