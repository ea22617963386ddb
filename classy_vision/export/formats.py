"""The formats of exported files: one table. Each format has a file of its own, which writes and reads it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from classy_vision.config import ConfigError, unknown
from classy_vision.engines.compiled import Compiled
from classy_vision.export.metadata import Metadata

if TYPE_CHECKING:
    from torch import Tensor, nn

Run = Callable[["Tensor"], Mapping[str, "Tensor"]]
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Int8:
    """How to quantize a model.

    Attributes:
        calibration: inputs from the training data, from which ranges are taken.
        measure: maps a callable that returns tensors by head to scores in points by head.
        max_loss: the points that a head may lose.
    """

    calibration: Sequence[Tensor]
    measure: Callable[[Run], Scores]
    max_loss: float = 1.0


@dataclass(frozen=True)
class Request:
    """A file to write.

    Attributes:
        model: on the CPU, in evaluation mode; takes and gives float32.
        example: an input; its batch is not 1.
        metadata: with the sizes that are free.
        int8: how to quantize the model; None for other precisions.
        before: the scores of the model where quantizing all layers lost too much, so that some stay in float32.
    """

    model: nn.Module
    example: Tensor
    metadata: Metadata
    int8: Int8 | None = None
    before: Scores | None = None


Loaded = tuple[Metadata, Compiled]
"""The description of a file, and what returns its outputs in the order of the heads."""


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        suffix: the end of the file's name.
        otherwise: what a file may be that cannot be read, if it is not damaged.
        precisions: of the weights that a file can hold.
        needs_trust: whether reading a file can run code from it; it is refused without ``trust``.
        beside: the suffixes of files that are written next to it.
    """

    suffix: str
    otherwise: str
    precisions: tuple[str, ...]
    needs_trust: bool = False
    beside: tuple[str, ...] = ()


FORMATS: Mapping[str, Format] = {
    "exported-program": Format(".pt2", "for another version of torch", ("float32", "bfloat16"), True),
    # On CPUs, ONNX Runtime has no convolutions or matrix products in bfloat16.
    "onnx": Format(".onnx", "not an ONNX file", ("float32", "int8")),
    "openvino": Format(
        ".xml", "not a file of OpenVINO", ("float32", "bfloat16", "float16", "int8"), beside=(".bin",)
    ),
    "aoti": Format(".pt2", "for another machine", ("float32", "bfloat16", "int8"), True),
    "safetensors": Format(".safetensors", "not a file of safetensors", ("float32", "bfloat16")),
}
"""The formats that ``export`` writes, by name."""
LIBRARY = "data/aotinductor/"
"""The folder of the shared library in an AOTInductor package."""


def find_format(path: Path) -> str:
    """Returns the name of the format of a file.

    Raises:
        ConfigError: the file does not exist, or has no known format.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}")
    if path.suffix == ".pt2":
        try:
            with zipfile.ZipFile(path) as archive:
                return "aoti" if any(LIBRARY in name for name in archive.namelist()) else "exported-program"
        except Exception as error:  # of many kinds
            raise ConfigError(f"{str(path)!r} is damaged or not an archive of torch: {error}") from None
    for name, entry in FORMATS.items():
        if path.suffix == entry.suffix:
            return name
    raise unknown("suffix", path.suffix, [entry.suffix for entry in FORMATS.values()], str(path))


def check_packages(what: str, extra: str, *names: str) -> None:
    """Checks that packages are installed.

    Raises:
        ConfigError: names the extra that installs the missing one.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        raise ConfigError(f"{what} need {missing[0]}: pip install 'classy-vision-models[{extra}]'")


def read_archived(path: Path, ending: str, limit: int) -> bytes | None:
    """Returns the part of an archive whose name has an ending; None where there is none, or it is too large."""
    with suppress(Exception), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(ending) and info.file_size <= limit:
                return archive.read(info)
    return None


def check_trust(path: Path, trust: bool, danger: str) -> None:
    """Raises where a file that can do harm is not trusted; ``danger`` says what it is and what reading it does.

    Raises:
        ConfigError: it is not trusted.
    """
    if not trust:
        raise ConfigError(
            f"{str(path)!r} {danger}: pass trust=True, or --trust, if you know where it comes from"
        )
