"""Whether an artefact says what its model says."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.export.exported_model import ExportedModel
from classy_vision.export.formats import Int8, Request, Run, Scores

CALLS = 5
"""By which a file is timed."""


@dataclass(frozen=True)
class Batched:
    """Something that takes batches up to a size, and is given any.

    Attributes:
        run: from an input to tensors by head.
        max_batch: what it takes.
        input_shape: (c, h, w) or (c, t, h, w).
        run_all: as ``run``, for each of many inputs in their order; one after the other by default.
    """

    run: Callable[[Tensor], Mapping[str, Tensor]]
    max_batch: int
    input_shape: tuple[int, ...] = ()
    run_all: Callable[[Iterable[Tensor]], Iterator[Mapping[str, Tensor]]] | None = None

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        parts = [self.run(part) for part in torch.split(images, self.max_batch)]
        return _join(parts)

    def stream(self, batches: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yields the tensors by head for each of many inputs, in their order."""
        counts: deque[int] = deque()

        def split() -> Iterator[Tensor]:
            for images in batches:
                parts = torch.split(images, self.max_batch)
                counts.append(len(parts))
                yield from parts

        outputs = iter(self.run_all(split()) if self.run_all else map(self.run, split()))
        for first in outputs:
            yield _join([first, *islice(outputs, counts.popleft() - 1)])


def _join(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {head: torch.cat([part[head] for part in parts]) for head in parts[0]}


def random_input(shape: Sequence[int]) -> Tensor:
    """The same numbers every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def compare(
    artefact: ExportedModel, request: Request, tolerance: float
) -> tuple[float, list[tuple[int, ...]], Scores, Scores]:
    """The largest difference, at several batches and sizes."""
    shapes, worst = _shapes(request), 0.0
    for shape in shapes:
        images = random_input(shape)
        wanted, given = _eager(request)(images), _run(artefact, images)
        for head, output in wanted.items():
            difference = _difference(given[head], output)
            worst = max(worst, difference)
            if not difference <= tolerance:
                raise ConfigError(
                    f"head {head!r} differs by {difference:.2g} of its largest number from the model's own, "
                    f"for inputs {shape}, and tolerance = {tolerance:g}: nothing was written"
                )
    return worst, shapes, {}, {}


def _run(artefact: ExportedModel, images: Tensor) -> Mapping[str, Tensor]:
    """What the artefact says.

    Raises:
        ConfigError: it was made for other sizes only.
    """
    try:
        return artefact(images)
    except ConfigError:
        raise
    except Exception as error:  # of torch or of ONNX Runtime, whose own are of many kinds
        free = artefact.metadata.input_shape[-1] is None
        what = "the model cannot be exported for any image size: " if free else ""
        raise ConfigError(
            f"{what}what was made of it does not run inputs {tuple(images.shape)} "
            f"({first_line(error)[:200]}); nothing was written"
        ) from None


def _shapes(request: Request) -> list[tuple[int, ...]]:
    """Batches of 1 and more at the size of the example, and other sizes where they are free."""
    shape, most = request.example.shape[1:], request.metadata.max_batch
    shapes: list[tuple[int, ...]] = [(n, *shape) for n in sorted({1, 2, min(5, most)})]
    if request.metadata.input_shape[-1] is None:
        *middle, height, width = shape
        shapes += [(2, *middle, height + 32, width + 8), (1, *middle, height, 2 * width + 1)]
    return shapes


def _eager(request: Request) -> Run:
    names = request.metadata.outputs

    @torch.no_grad()
    def run(images: Tensor) -> Mapping[str, Tensor]:
        outputs = request.model(images)
        return dict(zip(names, outputs.values() if isinstance(outputs, Mapping) else [outputs]))

    return run


def _difference(given: Tensor, wanted: Tensor) -> float:
    if given.shape != wanted.shape or not given.isfinite().all():
        return math.inf
    scale = wanted.double().abs().max().item() or 1.0
    return (given.double() - wanted.double()).abs().max().item() / scale


def time_answers(exported: ExportedModel) -> tuple[float, float | None]:
    """Returns the milliseconds of one input, and the seconds to the first answer after a process starts.

    The second is None where a process cannot be started.
    """
    shape = tuple(size or 224 for size in (1, *exported.metadata.input_shape[1:]))
    images, times = np.zeros(shape, np.float32), []
    for _ in range(CALLS + 1):
        start = time.perf_counter()
        exported(images)
        times.append(time.perf_counter() - start)
    code = (
        "import sys, numpy; from classy_vision.export import load_exported; "
        f"load_exported(sys.argv[1], trust=True)(numpy.zeros({shape}, 'float32'))"
    )
    start = time.perf_counter()
    with suppress(OSError, subprocess.SubprocessError):
        command = [sys.executable, "-W", "ignore", "-c", code, str(exported.path.absolute())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        subprocess.run(command, check=True, capture_output=True, timeout=120, env=environment)
        return 1000 * statistics.median(times[1:]), time.perf_counter() - start
    return 1000 * statistics.median(times[1:]), None


def measure(
    artefact: ExportedModel, request: Request, int8: Int8
) -> tuple[None, list[tuple[int, ...]], Scores, Scores]:
    """Scores of the model and of what was made of it.

    Raises:
        ConfigError: a head loses too much.
    """
    before, after = int8.measure(_eager(request)), int8.measure(Batched(artefact, artefact.metadata.max_batch))
    if odd := next((head for head in before if head not in artefact.metadata.outputs), None):
        raise unknown("head", odd, artefact.metadata.outputs, "the scores of int8")
    if set(after) != set(before):
        raise ConfigError(f"int8: measure gave scores of {sorted(before)}, and then of {sorted(after)}")
    for head, score in before.items():
        if not score - after[head] <= int8.max_loss:
            raise ConfigError(
                f"head {head!r} falls from {score:.2f} to {after[head]:.2f} in int8, by more than "
                f"{int8.max_loss:g} points: nothing was written"
            )
    return None, [], before, after
