"""Exported models in memory: called with images, they give numbers by head."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
        if self._loaded.takes == "numpy":
            outputs = self._loaded.run(_array(given))
            return dict(zip(self.metadata.outputs, outputs if is_array else map(_tensor, outputs)))
        outputs = self._loaded.run(_tensor(given).float())
        found = (output.numpy() for output in outputs) if is_array else outputs
        return dict(zip(self.metadata.outputs, found))


def load_exported(path: str | Path, *, trust: bool = False) -> ExportedModel:
    """An exported model, ready to be called.

    Nothing in ``.onnx`` and ``.safetensors`` files runs or is unpickled. A ``.pt2`` file can run anything:
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
