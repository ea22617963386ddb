"""Inputs are read ahead, run in batches and answered as they come, whatever runs the model.

Nothing here needs torch: arrays go in and come out. Axes: n samples, v views, k outputs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from classy_vision.data.config import DataConfig
from classy_vision.data.files import count_workers
from classy_vision.data.images import ImageError
from classy_vision.errors import ConfigError, first_line
from classy_vision.predict.inputs import Input, find_inputs, read_input

BATCH = 32
"""Images or clips that the model sees at once."""

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Mapping[str, Array]]
"""From views (n, v, c, h, w) or (n, v, c, t, h, w) to outputs (n, k) in float32, by head."""


@dataclass(frozen=True)
class Output:
    """What a model gives for one input.

    Attributes:
        input: it.
        outputs: by head, (k,) in float32: logits, or a number.
        error: why there are none.
    """

    input: Input
    outputs: Mapping[str, Array] = field(default_factory=dict)
    error: str | None = None


def stream(
    source: Any,
    data: DataConfig,
    channels: int,
    run: Run,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Generator[Output, None, None]:
    """What a model gives for inputs, in their order, as they come.

    Args:
        source: what ``Predictor.predict`` takes.
        data: what the model sees of an input.
        channels: of the model.
        run: runs it.
        batch_size: images or clips that the model sees at once, 32 by default.
        workers: threads that read, by default one per processor, at most 4.

    Raises:
        ConfigError: something is not an input, or a folder holds no images.
    """
    size = max(1, (batch_size or BATCH) // data.views)
    inputs = find_inputs(source, data)
    read = _read_ahead(inputs, lambda one: read_input(one, data, channels), size, workers or count_workers())
    try:
        while batch := list(islice(read, size)):
            yield from _run(batch, run)
    finally:
        read.close()


def _read_ahead(
    inputs: Iterable[Input], read: Callable[[Input], Array], size: int, workers: int
) -> Generator[tuple[Input, Array | ImageError], None, None]:
    """Inputs with their views, or their errors; threads are up to a batch ahead."""
    waiting: deque[tuple[Input, Future[Array]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="classy-read")
    try:
        for one in inputs:
            waiting.append((one, pool.submit(read, one)))
            if len(waiting) >= size + workers:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _result(one: Input, future: Future[Array]) -> tuple[Input, Array | ImageError]:
    try:
        return one, future.result()
    except ImageError as error:
        return one, error


def _run(batch: Sequence[tuple[Input, Array | ImageError]], run: Run) -> Iterator[Output]:
    """What the model gives for inputs; those of one shape are run together."""
    done: dict[int, Output] = {}
    shapes: dict[tuple[int, ...], list[tuple[int, Array]]] = {}
    for i, (one, views) in enumerate(batch):
        if isinstance(views, ImageError):
            done[i] = Output(one, error=views.reason)
        else:
            shapes.setdefault(views.shape, []).append((i, views))
    for shape, alike in shapes.items():
        try:
            outputs = run(np.stack([views for _, views in alike]))
        except RuntimeError as error:
            said = first_line(error)
            raise ConfigError(f"the model does not run on inputs of {shape[1:]}: {said}") from error
        for row, (i, _) in enumerate(alike):
            done[i] = Output(batch[i][0], {head: output[row] for head, output in outputs.items()})
    return (done[i] for i in range(len(batch)))
