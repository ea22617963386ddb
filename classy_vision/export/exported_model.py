"""Exported models in memory: called with images, they give numbers by head."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from classy_vision.export.formats import Loaded, find_format
from classy_vision.export.metadata import Metadata

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class ExportedModel:
    """An exported model.

    Attributes:
        path: its file.
        metadata: what the file says of it.
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
        """The names of the classes by head; of a head without classes there are none."""
        return {name: head.classes for name, head in self.metadata.heads.items()}

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        """How an image becomes its input, in keys of ``data`` of a training config."""
        return self.metadata.preprocessing or {}

    def __call__(self, images: Batch) -> dict[str, Batch]:
        """What the heads say.

        Args:
            images: float32 (n, c, h, w) or (n, c, t, h, w): an array of numpy or a tensor of torch.

        Returns:
            Of the same kind, by head.

        Raises:
            ConfigError: the model was not made for inputs of that shape.
        """
        given: Any = images
        self.metadata.check_input(tuple(given.shape))
        is_array = isinstance(given, np.ndarray)
        outputs = self._loaded.compiled(self._convert(given))
        return dict(zip(self.metadata.outputs, (_give(output, is_array) for output in outputs)))

    def stream(self, batches: Iterable[Batch]) -> Iterator[dict[str, Batch]]:
        """Yields what the heads say for each of many batches, in their order.

        ONNX Runtime and OpenVINO have several batches in work at a time, on all processors: more samples per
        second than by one call after the other, and a longer wait for each.

        Args:
            batches: as ``__call__`` takes them; they are taken as they are needed.

        Raises:
            ConfigError: the model was not made for inputs of that shape.
        """
        arrays: deque[bool] = deque()

        def convert() -> Iterator[Any]:
            for given in batches:
                whole: Any = given
                self.metadata.check_input(tuple(whole.shape))
                arrays.append(isinstance(whole, np.ndarray))
                yield self._convert(whole)

        for outputs in self._loaded.compiled.stream(convert()):
            is_array = arrays.popleft()
            yield dict(zip(self.metadata.outputs, (_give(output, is_array) for output in outputs)))

    def _convert(self, given: Any) -> Any:
        return _array(given) if self._loaded.compiled.takes == "numpy" else _tensor(given).float()


def load_exported(path: str | Path, *, trust: bool = False) -> ExportedModel:
    """An exported model, ready to be called.

    Nothing in ``.onnx``, ``.safetensors`` and OpenVINO's ``.xml`` and ``.bin`` files runs or is unpickled. A
    ``.pt2`` file can run anything:
    torch unpickles parts of an exported program, and an AOTInductor package is machine code. Both are
    refused without ``trust``.

    Args:
        path: what ``export`` wrote.
        trust: read a ``.pt2`` file, because you know where it comes from.

    Raises:
        ConfigError: there is no such file, it is damaged, or it is another tool's.
    """
    path = Path(os.path.expanduser(path))
    loaded = find_format(path).load(path, trust)
    return ExportedModel(path, loaded.metadata, loaded)


def _tensor(given: Any) -> Any:
    import torch  # an array can be run by ONNX Runtime alone

    return (
        given
        if isinstance(given, torch.Tensor)
        else torch.from_numpy(np.require(given, np.float32, ["C", "W"]))
    )


def _array(given: Any) -> np.ndarray[Any, Any]:
    return np.asarray(given if isinstance(given, np.ndarray) else given.detach().float().cpu(), np.float32)


def _give(output: Any, is_array: bool) -> Any:
    if is_array:
        return output if isinstance(output, np.ndarray) else output.numpy()
    return _tensor(output)
