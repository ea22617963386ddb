"""Reads inputs ahead, runs them in batches and yields their outputs in order, whatever runs the model.

Nothing here needs torch: arrays go in and come out. Axes: n samples, v views, k outputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from classy_vision.data.config import DataConfig
from classy_vision.data.files import count_workers
from classy_vision.data.images import ImageError
from classy_vision.errors import ConfigError, first_line
from classy_vision.predict.inputs import Input, find_inputs, read_input

BATCH = 32
"""The images or clips in a batch."""

T = TypeVar("T")
Array = np.ndarray[Any, Any]
Run = Callable[[Array], Mapping[str, Array]]
"""Maps views (n, v, c, h, w) or (n, v, c, t, h, w) to outputs (n, k) in float32, by head."""
RunAll = Callable[[Iterator[Array]], Iterator[Mapping[str, Array]]]
"""As ``Run``, for each of many batches in their order."""


@dataclass(frozen=True)
class Output:
    """The outputs of a model for one input.

    Attributes:
        input: what was read.
        outputs: by head, (k,) in float32: logits, or a number.
        error: why there are no outputs; None where there are.
    """

    input: Input
    outputs: Mapping[str, Array] = field(default_factory=dict)
    error: str | None = None


def stream(
    source: Any,
    data: DataConfig,
    channels: int,
    run_all: RunAll,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Generator[Output, None, None]:
    """Yields the outputs of a model for inputs, in their order, as soon as they are computed.

    Args:
        source: what ``Predictor.predict`` takes.
        data: how an input is read and preprocessed.
        channels: of the model's input.
        run_all: runs the model: ``one_by_one``, or a function that processes several batches at a time.
        batch_size: the images or clips in a batch, 32 by default.
        workers: the threads that read inputs, by default one per processor, at most 4.

    Raises:
        ConfigError: something is not an input, or a folder holds no images.
    """
    size = max(1, (batch_size or BATCH) // data.views)
    inputs = find_inputs(source, data)
    count = workers or count_workers()
    read = read_ahead(inputs, lambda one: read_input(one, data, channels), size + count, count)
    try:
        yield from answer_batches(iter(lambda: list(islice(read, size)), []), run_all)
    finally:
        read.close()


def read_ahead(
    inputs: Iterable[Input], read: Callable[[Input], T], ahead: int, workers: int
) -> Generator[tuple[Input, T | ImageError], None, None]:
    """Yields inputs with what ``read`` makes of them, or their errors.

    Args:
        inputs: any number of them.
        read: runs in threads.
        ahead: how many inputs may be read and not yet taken.
        workers: number of threads.
    """
    waiting: deque[tuple[Input, Future[T]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="classy-read")
    try:
        for one in inputs:
            waiting.append((one, pool.submit(read, one)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, _wait_for(future)
        for one, future in waiting:
            yield one, _wait_for(future)
    finally:
        pool.shutdown(cancel_futures=True)


def _wait_for(future: Future[Any]) -> Any:
    """Returns the result, or the error of an input that cannot be read."""
    try:
        return future.result()
    except ImageError as error:
        return error


def answer_batches(
    batches: Iterator[Sequence[tuple[Input, Array | ImageError]]], run_all: RunAll
) -> Generator[Output, None, None]:
    """Yields outputs for inputs, in their order; inputs of one batch and shape are run together.

    Args:
        batches: inputs with their views, or why they have none.
        run_all: runs the model.
    """
    waiting: deque[_Batch] = deque()

    def arrays() -> Iterator[Array]:
        """Ends after a batch of errors alone, so that these come out before more is read."""
        for entries in batches:
            waiting.append(batch := _Batch(entries))
            shapes = list(batch.shapes.values())
            if not shapes:
                return
            for alike in shapes:
                yield np.stack([views for _, views in alike])

    while True:
        for outputs in run_all(arrays()):
            waiting[0].take(outputs)
            if not waiting[0].shapes:
                yield from waiting.popleft().outputs()
        if not waiting:
            return
        yield from waiting.popleft().outputs()


class _Batch:
    """Inputs that were read together, and their outputs.

    Attributes:
        shapes: the inputs without outputs so far, by the shape of their views.
    """

    def __init__(self, entries: Sequence[tuple[Input, Array | ImageError]]) -> None:
        self._entries = entries
        self._done: dict[int, Output] = {}
        self.shapes: dict[tuple[int, ...], list[tuple[int, Array]]] = {}
        for i, (one, views) in enumerate(entries):
            if isinstance(views, ImageError):
                self._done[i] = Output(one, error=views.reason)
            else:
                self.shapes.setdefault(views.shape, []).append((i, views))

    def take(self, outputs: Mapping[str, Array]) -> None:
        """Stores the outputs for the inputs of the first shape."""
        for row, (i, _) in enumerate(self.shapes.pop(next(iter(self.shapes)))):
            found = {head: output[row] for head, output in outputs.items()}
            self._done[i] = Output(self._entries[i][0], found)

    def outputs(self) -> Iterator[Output]:
        """Yields all outputs, in the order of the inputs."""
        return (self._done[i] for i in range(len(self._entries)))


def one_by_one(run: Run) -> RunAll:
    """Returns a function that runs one batch after the other.

    Raises:
        ConfigError: by that function, if the model does not run on a batch.
    """

    def run_all(batches: Iterator[Array]) -> Iterator[Mapping[str, Array]]:
        for views in batches:
            try:
                yield run(views)
            except RuntimeError as error:
                said = first_line(error)
                raise ConfigError(f"the model does not run on inputs of {views.shape[1:]}: {said}") from error

    return run_all
