"""Compares an exported file with its model: by outputs, or for int8 by scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from classy_vision.config import ConfigError, first_line, unknown
from classy_vision.engines.program import flatten, measure_difference
from classy_vision.export.exported_model import ExportedModel
from classy_vision.export.formats import Int8, Request, Run, Scores

Found = tuple[float | None, list[tuple[int, ...]], Scores, Scores]
"""The largest difference, the shapes of the inputs, and the scores before and after."""


@dataclass(frozen=True)
class Batched:
    """Splits batches of any size into those that an exported model takes.

    Attributes:
        exported: the model.
        input_shape: (c, h, w) or (c, t, h, w).
    """

    exported: ExportedModel
    input_shape: tuple[int, ...] = ()

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        parts = torch.split(images, self.exported.metadata.max_batch)
        return _join([self.exported(part) for part in parts])

    def stream(self, batches: Iterable[Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yields the outputs by head for each of many batches, in their order."""
        counts: deque[int] = deque()

        def split() -> Iterator[Tensor]:
            for images in batches:
                parts = torch.split(images, self.exported.metadata.max_batch)
                counts.append(len(parts))
                yield from parts

        outputs = self.exported.stream(split())
        for first in outputs:
            yield _join([first, *islice(outputs, counts.popleft() - 1)])


def _join(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {head: torch.cat([part[head] for part in parts]) for head in parts[0]}


def draw_input(shape: Sequence[int]) -> Tensor:
    """Draws an input at random, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def compare_numbers(exported: ExportedModel, request: Request, tolerance: float) -> Found:
    """Compares outputs at several batches and sizes.

    Returns:
        The largest difference, relative to the largest output; the shapes of the inputs; no scores.

    Raises:
        ConfigError: a difference is above ``tolerance``.
    """
    shapes, worst = _choose_shapes(request), 0.0
    for shape in shapes:
        images = draw_input(shape)
        wanted, given = run_model(request)(images), _run(exported, images)
        for head, output in wanted.items():
            difference = measure_difference(given[head], output)
            worst = max(worst, difference)
            if not difference <= tolerance:
                raise ConfigError(
                    f"head {head!r} differs from the model by {difference:.2g} of the largest "
                    f"output, for inputs {shape}; tolerance = {tolerance:g}: nothing was written"
                )
    return worst, shapes, {}, {}


def _run(exported: ExportedModel, images: Tensor) -> Mapping[str, Tensor]:
    """Runs the exported model.

    Raises:
        ConfigError: it does not run inputs of that shape.
    """
    try:
        return exported(images)
    except ConfigError:
        raise
    except Exception as error:  # torch and ONNX Runtime raise many kinds
        free = exported.metadata.input_shape[-1] is None
        what = "the model cannot be exported for any image size: " if free else ""
        raise ConfigError(
            f"{what}the exported model does not run inputs {tuple(images.shape)} "
            f"({first_line(error)[:200]}); nothing was written"
        ) from None


def _choose_shapes(request: Request) -> list[tuple[int, ...]]:
    """Returns batches of 1 and more at the size of the example, and at other sizes if these are free."""
    shape, most = request.example.shape[1:], request.metadata.max_batch
    shapes: list[tuple[int, ...]] = [(n, *shape) for n in sorted({1, 2, min(5, most)})]
    if request.metadata.input_shape[-1] is None:
        *middle, height, width = shape
        shapes += [(2, *middle, height + 32, width + 8), (1, *middle, height, 2 * width + 1)]
    return shapes


def run_model(request: Request) -> Run:
    """Returns a function that runs the model and returns its outputs by head."""
    names = request.metadata.outputs

    @torch.no_grad()
    def run(images: Tensor) -> Mapping[str, Tensor]:
        return dict(zip(names, flatten(request.model(images))))

    return run


class ScoreError(ConfigError):
    """A head loses too much in int8."""


def compare_scores(exported: ExportedModel, before: Scores, int8: Int8) -> Found:
    """Compares scores, which ``int8.measure`` computes, with those of the model.

    Returns:
        No difference, no shapes, and the scores of the model and of the exported model.

    Raises:
        ScoreError: a head loses too much.
        ConfigError: the scores are not those of the heads.
    """
    after = int8.measure(Batched(exported))
    if odd := next((head for head in before if head not in exported.metadata.outputs), None):
        raise unknown("head", odd, exported.metadata.outputs, "the scores of int8")
    if set(after) != set(before):
        raise ConfigError(f"int8: measure returned scores of {sorted(before)}, and then of {sorted(after)}")
    for head, score in before.items():
        if not score - after[head] <= int8.max_loss:
            raise ScoreError(
                f"head {head!r} falls from {score:.2f} to {after[head]:.2f} in int8, by more than "
                f"{int8.max_loss:g} points: nothing was written"
            )
    return None, [], before, after
