"""The formats of artefacts: one table, and one file per format.

A format's module is imported when it is used: an ONNX file is run without torch.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from classy_vision.config import ConfigError, unknown
from classy_vision.engines.engine import Compiled
from classy_vision.export.metadata import Metadata

if TYPE_CHECKING:
    from torch import Tensor, nn

Run = Callable[["Tensor"], Mapping[str, "Tensor"]]
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Int8:
    """How a model is quantised.

    Attributes:
        calibration: inputs of the training data, from which ranges are taken.
        measure: returns a score in points by head, for a function that returns tensors by head.
        max_loss: the points that a head may lose.
    """

    calibration: Sequence[Tensor]
    measure: Callable[[Run], Scores]
    max_loss: float = 1.0


@dataclass(frozen=True)
class Request:
    """What is to be written.

    Attributes:
        model: on the CPU, in evaluation mode; takes and gives float32.
        example: an input; its batch is not 1.
        metadata: with the sizes that are free.
        int8: how it is quantised; None where it is not.
    """

    model: nn.Module
    example: Tensor
    metadata: Metadata
    int8: Int8 | None = None


class Loaded(NamedTuple):
    """An artefact in memory.

    Attributes:
        metadata: what it says of itself.
        compiled: gives the outputs in the order of the heads.
    """

    metadata: Metadata
    compiled: Compiled


@dataclass(frozen=True)
class Function:
    """A function from a tensor to tensors, as a compiled program."""

    run: Callable[[Any], list[Any]]
    takes: Literal["torch"] = "torch"

    def __call__(self, images: Any) -> list[Any]:
        return self.run(images)

    def stream(self, batches: Iterable[Any]) -> Iterator[list[Any]]:
        return map(self.run, batches)

    def save(self, folder: Path, stem: str) -> None:
        raise NotImplementedError("an exported model: copy its file")


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        suffix: how their names end.
        module: has ``save(request, path)`` and ``load(path, trust)``.
        precisions: of the weights that it can hold.
        needs_trust: whether reading a file can run what is in it: ``load`` refuses it without ``trust``.
        beside: the endings of files that are written beside it.
    """

    suffix: str
    module: str
    precisions: tuple[str, ...]
    needs_trust: bool = False
    beside: tuple[str, ...] = ()

    def save(self, request: Request, path: Path) -> None:
        """Writes the file."""
        import_module(f"classy_vision.export.{self.module}").save(request, path)

    def load(self, path: Path, trust: bool) -> Loaded:
        """Reads the file."""
        loaded: Loaded = import_module(f"classy_vision.export.{self.module}").load(path, trust)
        return loaded


FORMATS: Mapping[str, Format] = {
    "exported-program": Format(".pt2", "exported_program", ("float32", "bfloat16"), True),
    # ONNX Runtime has no convolutions and products in bfloat16 on CPUs.
    "onnx": Format(".onnx", "onnx_file", ("float32", "int8")),
    "openvino": Format(".xml", "openvino_file", ("float32", "int8"), beside=(".bin",)),
    "aoti": Format(".pt2", "aoti_package", ("float32", "bfloat16", "int8"), True),
    "safetensors": Format(".safetensors", "safetensors_file", ("float32", "bfloat16")),
}
"""What ``export`` writes, by name."""
LIBRARY = "data/aotinductor/"
"""Where the shared library is in an AOTInductor package."""


def find_format(path: Path) -> Format:
    """The format of a file.

    Raises:
        ConfigError: there is no such file, or it is of none.
    """
    if not path.is_file():
        raise ConfigError(f"no such artefact: {str(path)!r}")
    if path.suffix == ".pt2":
        return FORMATS["aoti" if any(LIBRARY in name for name in members(path)) else "exported-program"]
    for entry in FORMATS.values():
        if path.suffix == entry.suffix:
            return entry
    raise unknown("ending", path.suffix, [f.suffix for f in FORMATS.values()], str(path))


def members(path: Path) -> list[str]:
    """The names in an archive.

    Raises:
        ConfigError: it is damaged, or none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except UNREADABLE as error:
        raise ConfigError(f"{str(path)!r} is damaged or no archive of torch: {error}") from None


UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What ``zipfile`` and ``json`` raise for damaged files."""


def check_packages(what: str, extra: str, *names: str) -> None:
    """Raises where a package is missing.

    Raises:
        ConfigError: names the extra that installs it.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        raise ConfigError(f"{what} need {missing[0]}: pip install 'classy-vision-models[{extra}]'")


def check_trust(path: Path, trust: bool, danger: str) -> None:
    """Raises where a file would be read that can do harm.

    Args:
        path: of the file.
        trust: whether the caller trusts it.
        danger: what the file is and what reading it does.

    Raises:
        ConfigError: it is not trusted.
    """
    if not trust:
        raise ConfigError(
            f"{str(path)!r} {danger}: pass trust=True, or --trust, if you know where it comes from"
        )
