"""The formats of artefacts: one table, and one file per format.

A format's module is imported when it is used: an ONNX file is run without torch.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from classy_vision.config import ConfigError, unknown
from classy_vision.export.metadata import Metadata

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Request:
    """What is to be written.

    Attributes:
        model: on the CPU, in evaluation mode; takes and gives float32.
        example: an input; its batch is not 1.
        metadata: with the sizes that are free.
        calibration: inputs from which ranges for int8 are taken; None for others.
    """

    model: nn.Module
    example: Tensor
    metadata: Metadata
    calibration: Sequence[Tensor] | None = None


class Loaded(NamedTuple):
    """An artefact in memory.

    Attributes:
        metadata: what it says of itself.
        run: from an input to outputs in the order of the heads.
        takes: arrays of numpy, or tensors of torch.
    """

    metadata: Metadata
    run: Callable[[Any], Sequence[Any]]
    takes: Literal["numpy", "torch"]


@dataclass(frozen=True)
class Format:
    """A format of files.

    Attributes:
        suffix: how their names end.
        module: has ``save(request, path)`` and ``load(path, trust)``.
        precisions: of the weights that it can hold.
        needs_trust: whether reading a file can run what is in it: ``load`` refuses it without ``trust``.
        folds: whether norms are folded before it is written. ONNX Runtime folds what it can by itself, and
            is slower with the bounds that are left of DenseNet's.
    """

    suffix: str
    module: str
    precisions: tuple[str, ...]
    needs_trust: bool = False
    folds: bool = False

    def save(self, request: Request, path: Path) -> None:
        """Writes the file."""
        import_module(f"{__package__}.{self.module}").save(request, path)

    def load(self, path: Path, trust: bool) -> Loaded:
        """Reads the file."""
        loaded: Loaded = import_module(f"{__package__}.{self.module}").load(path, trust)
        return loaded


FORMATS: Mapping[str, Format] = {
    "exported-program": Format(".pt2", "exported_program", ("float32", "bfloat16"), True, folds=True),
    # ONNX Runtime has no convolutions and products in bfloat16 on CPUs.
    "onnx": Format(".onnx", "onnx_file", ("float32", "int8")),
    "aoti": Format(".pt2", "aoti_package", ("float32", "bfloat16", "int8"), True, folds=True),
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
