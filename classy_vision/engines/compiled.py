"""What every engine does with a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from classy_vision.engines.program import Program

Files = Mapping[str, memoryview]
"""What is in the files of a program, by their endings, such as "onnx"."""


class Compiled(ABC):
    """A program that an engine has compiled. Several threads may call it.

    Attributes:
        name: of the engine.
        packages, extra: what it needs, and the extra of the distribution that installs it.
        devices: the types of devices that it runs on.
        needs_trust: whether reading a file of this engine can run code that is in the file.
        takes_export: whether ``compile`` takes the exported program.
        takes: what ``run`` is called with and returns.
        outputs: for each name the place of its output in what ``run`` returns.
        workers: how many batches ``stream`` has in work at a time.
    """

    name: ClassVar[str]
    extra: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    needs_trust: ClassVar[bool] = False
    takes_export: ClassVar[bool] = False
    takes: ClassVar[str] = "numpy"
    outputs: Mapping[str, int]
    workers: int = 1

    @classmethod
    @abstractmethod
    def compile(cls, program: Program) -> Compiled:
        """Compiles a program."""

    @classmethod
    @abstractmethod
    def load(cls, files: Files, **options: Any) -> Compiled:
        """Loads what ``save`` wrote; ``options`` are "threads", "dtype" and "cache_dir"."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Writes the files that ``load`` reads; each has the name of ``path`` and a suffix of its own."""

    @abstractmethod
    def run(self, images: Any) -> list[Any]:
        """Returns the outputs for a batch, in memory of their own."""

    def start(self, images: Any) -> Callable[[], list[Any]]:
        """Starts one of many calls, and returns a function that waits for its outputs."""
        outputs = self.run(images)
        return lambda: outputs

    def __call__(self, images: Any) -> dict[str, Any]:
        """Returns the outputs by name for an array or a tensor, as the same, in float32."""
        return self._name_outputs(self.run(self._prepare_input(images)), images)

    def stream(self, batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """Yields the outputs by name for each of many batches, in their order."""
        started: deque[tuple[Callable[[], list[Any]], Any]] = deque()
        for images in batches:
            started.append((self.start(self._prepare_input(images)), images))
            if len(started) > 2 * self.workers:  # so that none waits for the next
                wait, given = started.popleft()
                yield self._name_outputs(wait(), given)
        for wait, given in started:
            yield self._name_outputs(wait(), given)

    def _prepare_input(self, images: Any) -> Any:
        """Returns a batch as the engine takes it."""
        if self.takes == "numpy":
            array = images if isinstance(images, np.ndarray) else images.float().numpy(force=True)
            return np.ascontiguousarray(array, np.float32)
        if not isinstance(images, np.ndarray):
            return images.float()
        import torch  # not where arrays go to an engine that takes them

        return torch.from_numpy(np.require(images, np.float32, ["C", "W"]))

    def _name_outputs(self, outputs: list[Any], images: Any) -> dict[str, Any]:
        """Returns outputs by name, as arrays if ``images`` is one."""
        if isinstance(images, np.ndarray):
            if self.takes != "numpy":
                outputs = [output.numpy(force=True) for output in outputs]
        elif self.takes == "numpy":
            import torch

            outputs = [*map(torch.from_numpy, outputs)]
        return {name: outputs[place] for name, place in self.outputs.items()}
