"""Reading exported files: ``load_exported`` returns a model that maps images to outputs by head."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classy_vision.config import ConfigError, first_line
from classy_vision.engines.compiled import Compiled
from classy_vision.export.formats import FORMATS, find_format
from classy_vision.export.metadata import Metadata


@dataclass(frozen=True)
class ExportedModel:
    """An exported model in memory; call it with a batch of images.

    Attributes:
        path: its file.
        metadata: its description, from the file.
        compiled: what runs it.
    """

    path: Path
    metadata: Metadata
    compiled: Compiled

    @property
    def heads(self) -> tuple[str, ...]:
        """The ids of the heads."""
        return tuple(self.metadata.heads)

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the classes by head; empty for a head without classes."""
        return {name: head.classes for name, head in self.metadata.heads.items()}

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """How an image becomes an input, in the keys of ``data`` of a training config."""
        return self.metadata.preprocessing or {}

    def __call__(self, images: Any) -> dict[str, Any]:
        """Returns the outputs by head, of the same kind as ``images``.

        Args:
            images: float32 (n, c, h, w) or (n, c, t, h, w): an array of numpy or a tensor of torch.

        Raises:
            ConfigError: the model was not exported for inputs of that shape, or its outputs are not what its
                metadata say.
        """
        return self._check_outputs(self.compiled(self._check(images)))

    def stream(self, batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """Yields the outputs by head for each of many batches, in their order.

        ONNX Runtime and OpenVINO process several batches at a time, on all processors: more samples per
        second than by one call after the other, and a longer wait for each.

        Args:
            batches: as ``__call__`` takes them; each is taken when it is needed.

        Raises:
            ConfigError: the model was not exported for inputs of that shape.
        """
        return map(self._check_outputs, self.compiled.stream(map(self._check, batches)))

    def _check(self, images: Any) -> Any:
        self.metadata.check_input(tuple(images.shape))
        return images

    def _check_outputs(self, outputs: dict[str, Any]) -> dict[str, Any]:
        for name, output in outputs.items():
            self.metadata.heads[name].check_output(name, tuple(output.shape))
        return outputs


def load_exported(path: str | Path, *, trust: bool = False) -> ExportedModel:
    """Reads a file that ``export`` wrote.

    ``.onnx`` and ``.safetensors`` files, and the ``.xml`` and ``.bin`` files of OpenVINO, run no code and are
    not unpickled. A ``.pt2`` file can run any code: torch unpickles parts of an exported program, and an
    AOTInductor package is machine code. Both are refused without ``trust``.

    Args:
        path: of the file.
        trust: read a ``.pt2`` file, because you know where it comes from.

    Raises:
        ConfigError: the file does not exist, is damaged, or was written by another tool.
    """
    path = Path(os.path.expanduser(path))
    format = find_format(path)
    try:
        metadata, compiled = find_code(format).load(path, trust)
    except ConfigError:
        raise
    except Exception as error:  # of many kinds, some of which only a library's binary names
        reason = first_line(error)[:300]
        raise ConfigError(f"{str(path)!r} is damaged or {FORMATS[format].otherwise}: {reason}") from None
    compiled.outputs = {name: place for place, name in enumerate(metadata.outputs)}
    return ExportedModel(path, metadata, compiled)


def find_code(format: str) -> Any:
    """Returns the module that has ``save`` and ``load`` of a format; ONNX and OpenVINO files need no torch."""
    module: Any
    if format == "onnx":
        import classy_vision.export.onnx_file as module
    elif format == "openvino":
        import classy_vision.export.openvino_file as module
    elif format == "safetensors":
        import classy_vision.export.safetensors_file as module
    elif format == "aoti":
        import classy_vision.export.aoti_package as module
    else:
        import classy_vision.export.exported_program as module
    return module
