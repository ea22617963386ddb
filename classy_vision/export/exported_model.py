"""Reading exported files: ``load_exported`` returns a model that maps images to outputs by head."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from classy_vision.export.formats import Loaded, find_format
from classy_vision.export.metadata import Metadata

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class ExportedModel:
    """An exported model in memory; call it with a batch of images.

    Attributes:
        path: its file.
        metadata: its description, from the file.
    """

    path: Path
    metadata: Metadata
    _loaded: Loaded

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

    def __call__(self, images: Batch) -> dict[str, Batch]:
        """Returns the outputs by head, of the same kind as ``images``.

        Args:
            images: float32 (n, c, h, w) or (n, c, t, h, w): an array of numpy or a tensor of torch.

        Raises:
            ConfigError: the model was not exported for inputs of that shape.
        """
        given: Any = images
        self.metadata.check_input(tuple(given.shape))
        is_array = isinstance(given, np.ndarray)
        outputs = self._loaded.compiled(self._convert(given))
        return dict(zip(self.metadata.outputs, (_convert_back(output, is_array) for output in outputs)))

    def stream(self, batches: Iterable[Batch]) -> Iterator[dict[str, Batch]]:
        """Yields the outputs by head for each of many batches, in their order.

        ONNX Runtime and OpenVINO process several batches at a time, on all processors: more samples per
        second than by one call after the other, and a longer wait for each.

        Args:
            batches: as ``__call__`` takes them; each is taken when it is needed.

        Raises:
            ConfigError: the model was not exported for inputs of that shape.
        """
        arrays: deque[bool] = deque()

        def convert() -> Iterator[Any]:
            for batch in batches:
                given: Any = batch
                self.metadata.check_input(tuple(given.shape))
                arrays.append(isinstance(given, np.ndarray))
                yield self._convert(given)

        for outputs in self._loaded.compiled.stream(convert()):
            is_array = arrays.popleft()
            yield dict(zip(self.metadata.outputs, (_convert_back(output, is_array) for output in outputs)))

    def _convert(self, given: Any) -> Any:
        return _to_array(given) if self._loaded.compiled.takes == "numpy" else _to_tensor(given).float()


def load_exported(path: str | Path, *, trust: bool = False) -> ExportedModel:
    """Reads a file that ``export`` wrote.

    ``.onnx`` and ``.safetensors`` files, and the ``.xml`` and ``.bin`` files of OpenVINO, run no code and are
    not unpickled. A ``.pt2`` file can run any code:
    torch unpickles parts of an exported program, and an AOTInductor package is machine code. Both are
    refused without ``trust``.

    Args:
        path: of the file.
        trust: read a ``.pt2`` file, because you know where it comes from.

    Raises:
        ConfigError: the file does not exist, is damaged, or was written by another tool.
    """
    path = Path(os.path.expanduser(path))
    loaded = _find_loader(path)(path, trust)
    return ExportedModel(path, loaded.metadata, loaded)


def _find_loader(path: Path) -> Callable[[Path, bool], Loaded]:
    """The reader of a file's format; ONNX and OpenVINO files are read and run without torch."""
    format = find_format(path)
    if format == "onnx":
        from classy_vision.export.onnx_file import load
    elif format == "openvino":
        from classy_vision.export.openvino_file import load
    elif format == "safetensors":
        from classy_vision.export.safetensors_file import load
    elif format == "aoti":
        from classy_vision.export.aoti_package import load
    else:
        from classy_vision.export.exported_program import load
    return load


def _to_tensor(given: Any) -> Any:
    import torch  # ONNX Runtime and OpenVINO run an array without it

    if isinstance(given, torch.Tensor):
        return given
    return torch.from_numpy(np.require(given, np.float32, ["C", "W"]))


def _to_array(given: Any) -> np.ndarray[Any, Any]:
    return np.asarray(given if isinstance(given, np.ndarray) else given.detach().float().cpu(), np.float32)


def _convert_back(output: Any, is_array: bool) -> Any:
    if is_array:
        return output if isinstance(output, np.ndarray) else output.numpy()
    return _to_tensor(output)
