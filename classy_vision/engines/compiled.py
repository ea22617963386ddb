"""What every engine does with a program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from classy_vision.engines.program import Program


class Compiled(ABC):
    """A program that an engine has compiled. Several threads may call it.

    Attributes:
        name: of the engine.
        packages, extra: what it needs, and the extra of the distribution that installs it.
        devices: the types of devices that it runs on.
        needs_trust: whether reading a file of this engine can run code that is in the file.
        takes: what ``run`` is called with and returns.
        workers: how many calls of ``run_one_of_many`` should run at a time.
    """

    name: ClassVar[str]
    extra: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    needs_trust: ClassVar[bool] = False
    takes: ClassVar[str] = "numpy"
    workers: int = 1

    @classmethod
    @abstractmethod
    def compile(cls, program: Program) -> Compiled:
        """Compiles a program."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, stem: str, **options: Any) -> Compiled:
        """Reads what ``save`` wrote; ``options`` are "threads", "dtype" and "cache_dir"."""

    @abstractmethod
    def run(self, images: Any) -> list[Any]:
        """Returns the outputs for a batch, in memory of their own."""

    def run_one_of_many(self, images: Any) -> list[Any]:
        """As ``run``, while ``workers`` threads do so."""
        return self.run(images)

    @abstractmethod
    def save(self, folder: Path, stem: str) -> None:
        """Writes the files that ``load`` reads."""

    def __call__(self, images: Any) -> list[Any]:
        """Returns the outputs for an array or a tensor, as the same, in float32."""
        return self._call(self.run, images)

    def stream(self, batches: Iterable[Any]) -> Iterator[list[Any]]:
        """Yields the outputs for each of many batches in their order, several of which run at a time."""
        if self.workers == 1:
            yield from map(self, batches)
            return
        started: deque[Future[list[Any]]] = deque()
        with ThreadPoolExecutor(self.workers) as pool:
            for images in batches:
                started.append(pool.submit(self._call, self.run_one_of_many, images))
                if len(started) > self.workers:
                    yield started.popleft().result()
            while started:
                yield started.popleft().result()

    def _call(self, run: Callable[[Any], list[Any]], images: Any) -> list[Any]:
        if isinstance(images, np.ndarray) and self.takes == "numpy":
            return run(np.ascontiguousarray(images, np.float32))
        import torch  # not where arrays go to an engine that takes them

        if self.takes == "numpy":
            return [*map(torch.from_numpy, run(np.ascontiguousarray(images.float().numpy(force=True))))]
        if isinstance(images, np.ndarray):
            images = torch.from_numpy(np.require(images, np.float32, ["C", "W"]))
            return [output.numpy(force=True) for output in run(images)]
        return run(images.float())
