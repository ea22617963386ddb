"""What is measured on the held-out split: exactly, and the same on one process and on many.

Axes: n samples, k outputs, p pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Gather = Callable[[Tensor], Tensor]
"""Rows of this process to those of all processes, one process after the other."""
CHUNK = 1 << 24
"""Scores that are ranked at once."""


class Metric(ABC):
    """A number that says how good outputs are."""

    @abstractmethod
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds samples that have labels."""

    @abstractmethod
    def compute(self, gather: Gather = lambda rows: rows) -> float:
        """The number for all samples; every process calls it with a ``gather`` that reaches the others."""

    def compute_all(self, name: str, gather: Gather = lambda rows: rows) -> dict[str, float]:
        """The number by its name, and others that come with it; NaN where one is not defined."""
        return {name: self.compute(gather)}


class _Sums(Metric):
    """A metric that is a function of sums over samples.

    Args:
        shape: of the sums, which are float64 and stay on the device of the outputs.
    """

    def __init__(self, *shape: int) -> None:
        self._sums = torch.zeros(shape, dtype=torch.float64)

    @abstractmethod
    def _parts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        """What samples add to each of the sums."""

    @abstractmethod
    def _score(self, sums: Tensor) -> Tensor:
        """The number, of the sums over all samples."""

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        parts = torch.stack([part.double() for part in self._parts(outputs, targets)])
        self._sums = self._sums.to(parts.device) + parts

    def compute(self, gather: Gather = lambda rows: rows) -> float:
        return float(self._score(gather(self._sums[None]).sum(0)))


class Accuracy(_Sums):
    """The part of samples whose largest output is that of their class.

    Shape: (n, k) and classes (n,).
    """

    def __init__(self) -> None:
        super().__init__(2)

    def _parts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        right = outputs.argmax(1) == targets
        return [right.sum(), torch.ones_like(right).sum()]

    def _score(self, sums: Tensor) -> Tensor:
        return sums[0] / sums[1].clamp(min=1)


class F1(_Sums):
    """The mean over labels of F1, where an output above 0 says that a label is there.

    A label that is never there nor predicted counts as 0.

    Shape: logits (n, k) and labels (n, k) of 0 and 1.
    """

    def __init__(self, labels: int) -> None:
        super().__init__(2, labels)

    def _parts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        said, true = outputs > 0, targets > 0
        return [(said & true).sum(0), said.sum(0) + true.sum(0)]

    def _score(self, sums: Tensor) -> Tensor:
        return (2 * sums[0] / sums[1].clamp(min=1)).mean()


class MeanAbsoluteError(_Sums):
    """The mean of how far outputs are from targets. Shape: (n,) and (n,)."""

    def __init__(self) -> None:
        super().__init__(2)

    def _parts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        away = (outputs.double() - targets.double()).abs()
        return [away.sum(), torch.ones_like(away).sum()]

    def _score(self, sums: Tensor) -> Tensor:
        return sums[0] / sums[1].clamp(min=1)


class R2(_Sums):
    """The part of the targets' variance that outputs explain: 1 is perfect, 0 as good as their mean.

    Shape: (n,) and (n,).
    """

    def __init__(self) -> None:
        super().__init__(4)

    def _parts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        true = targets.double()
        return [torch.ones_like(true).sum(), true.sum(), true.square().sum(), (outputs - true).square().sum()]

    def _score(self, sums: Tensor) -> Tensor:
        count, total, squares, missed = sums
        spread = squares - total.square() / count.clamp(min=1)
        return 1 - missed / spread if spread > 0 else (missed == 0).double()


class PixelAccuracy(_Sums):
    """The part of pixels whose class is right. Shape: classes (p,) and (p,)."""

    def __init__(self) -> None:
        super().__init__(2)

    def _parts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        right = outputs == targets
        return [right.sum(), torch.ones_like(right).sum()]

    def _score(self, sums: Tensor) -> Tensor:
        return sums[0] / sums[1].clamp(min=1)


class MeanIoU(_Sums):
    """The mean over classes of intersection over union, of the pixels of all samples together.

    A class that no pixel has and none is predicted to have is left out.

    Args:
        classes: their names.

    Shape: classes (p,) and (p,).
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        super().__init__(len(classes), len(classes))

    def _parts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        k = len(self.classes)
        return list(torch.bincount(targets * k + outputs, minlength=k * k).reshape(k, k))

    def _score(self, sums: Tensor) -> Tensor:
        return intersection_over_union(sums).nanmean()

    def compute_all(self, name: str, gather: Gather = lambda rows: rows) -> dict[str, float]:
        of_class = intersection_over_union(gather(self._sums[None]).sum(0))
        found = {f"IoU/{label}": value for label, value in zip(self.classes, of_class.tolist())}
        return {name: float(of_class.nanmean()), **found}


def intersection_over_union(confusion: Tensor) -> Tensor:
    """Of each class, (k,), from how often (true, predicted) is there, (k, k); NaN where it never is."""
    both = confusion.diagonal()
    return both / (confusion.sum(0) + confusion.sum(1) - both)


class RootMeanSquaredError(_Sums):
    """The root of the mean square of how far outputs are from targets. Shape: (p,) and (p,)."""

    def __init__(self) -> None:
        super().__init__(2)

    def _parts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        away = (outputs.double() - targets.double()).square()
        return [away.sum(), torch.ones_like(away).sum()]

    def _score(self, sums: Tensor) -> Tensor:
        return (sums[0] / sums[1].clamp(min=1)).sqrt()


class AbsoluteRelativeError(_Sums):
    """The mean of how far outputs are from targets, as a part of these; only positive targets count.

    Shape: (p,) and (p,).
    """

    def __init__(self) -> None:
        super().__init__(2)

    def _parts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        counts = targets > 0
        true = targets[counts].double()
        return [((outputs[counts] - true).abs() / true).sum(), counts.sum()]

    def _score(self, sums: Tensor) -> Tensor:
        return sums[0] / sums[1]


class Delta1(_Sums):
    """The part of positive targets that outputs are off by a factor below 1.25. Shape: (p,) and (p,)."""

    def __init__(self) -> None:
        super().__init__(2)

    def _parts(self, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        counts = targets > 0
        quotients = outputs[counts].double() / targets[counts].double()
        return [((quotients < 1.25) & (quotients > 1 / 1.25)).sum(), counts.sum()]

    def _score(self, sums: Tensor) -> Tensor:
        return sums[0] / sums[1]


class MeanAveragePrecision(Metric):
    """The mean over labels of average precision, from the exact ranking of all samples.

    Labels that no sample has are left out. Each process keeps its own scores in the memory of the
    CPU, 5 bytes per sample and label, and all of them see a few labels at a time.

    Shape: logits (n, k) and labels (n, k) of 0 and 1.
    """

    def __init__(self, labels: int) -> None:
        self._scores = [torch.empty(0, labels)]
        self._targets = [torch.empty(0, labels, dtype=torch.bool)]

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self._scores.append(outputs.float().cpu())
        self._targets.append((targets > 0).cpu())

    def compute(self, gather: Gather = lambda rows: rows) -> float:
        scores, targets = torch.cat(self._scores), torch.cat(self._targets)
        count = int(gather(torch.tensor([len(scores)])).sum())
        found = []
        for part in torch.split(torch.arange(scores.shape[1]), max(1, CHUNK // max(1, count))):
            found.append(average_precision(gather(scores[:, part]), gather(targets[:, part])))
        known = torch.cat(found)
        known = known[~known.isnan()]
        return float(known.mean()) if len(known) else 0.0


def average_precision(scores: Tensor, targets: Tensor) -> Tensor:
    """The average precision of each label: the mean, over samples that have it, of the precision there.

    Samples with the same score count as one step, as in scikit-learn.

    Args:
        scores: (n, k); higher means likelier.
        targets: (n, k) of bool.

    Returns:
        (k,) of float64; NaN for labels that no sample has.
    """
    n = len(scores)
    ranked, order = scores.T.contiguous().sort(1, descending=True)
    hits = targets.T.gather(1, order).double()
    places = torch.arange(1, n + 1, device=scores.device)
    precision = hits.cumsum(1) / places
    # The last place that has the same score.
    ends = torch.full_like(order, n - 1)
    ends[:, :-1] = torch.where(ranked[:, 1:] == ranked[:, :-1], n - 1, places[:-1] - 1)
    ends = ends.flip(1).cummin(1).values.flip(1)
    return (hits * precision.gather(1, ends)).sum(1) / hits.sum(1)
