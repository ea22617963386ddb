"""Images mixed with others of their batch: mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019).

The images at places 2i and 2i + 1 of the global batch, whose order is drawn anew for each epoch, are mixed
with each other. So both are always read by one process, and what is drawn depends on the seed, the epoch, the
step and the place alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from classy_vision.train.config import ScheduleConfig
from classy_vision.train.tasks import Task


@dataclass(frozen=True)
class Mixture:
    """What each of n images is mixed with.

    Attributes:
        partners: (n,), the places in the batch of the others; an image without one has its own.
        kept: (n,), the part of an image that is its own: of each of its pixels, or of its area.
        boxes: (n, 4), top, left, bottom and right of what comes from the other image, as parts of the
            height and width; empty ones where all pixels are mixed.
    """

    partners: Tensor
    kept: Tensor
    boxes: Tensor

    @classmethod
    def draw(
        cls, schedule: ScheduleConfig, epoch: int, step: int, places: Tensor, size: tuple[int, int]
    ) -> Mixture:
        """Draws the mixture of a step.

        Args:
            schedule: says how much is mixed.
            epoch, step: which.
            places: (n,) of the images in the global batch, rising.
            size: height and width of the images.
        """
        rng = np.random.default_rng([schedule.seed, epoch, step])
        pairs = schedule.batch_size // 2
        by_area = _choose_area(schedule, rng, pairs)
        alphas = np.where(by_area, schedule.cutmix or 1.0, schedule.mixup or 1.0)
        kept = rng.beta(alphas, alphas)
        kept[rng.random(pairs) >= schedule.mix_probability] = 1.0
        boxes = _draw_boxes(rng, np.where(by_area, 1 - kept, 0.0), size)
        kept = np.where(by_area, 1 - _areas(boxes), kept)
        partners = find_partners(places)
        pair = (places // 2).clamp(max=max(pairs - 1, 0))
        alone = partners == torch.arange(len(places))
        return cls(
            partners,
            torch.from_numpy(kept)[pair].masked_fill(alone, 1.0).float(),
            torch.from_numpy(boxes)[pair].masked_fill(alone[:, None], 0.0).float(),
        )

    def to(self, device: torch.device) -> Mixture:
        return Mixture(self.partners.to(device), self.kept.to(device), self.boxes.to(device))

    def mix(self, images: Tensor) -> Tensor:
        """Mixes images or clips (n, ..., h, w)."""
        inside = self._inside(images)
        kept = torch.where(self._has_box, 1.0, self.kept).to(images).view(-1, *[1] * (images.dim() - 1))
        others = images[self.partners]
        return torch.where(inside, others, others.lerp(images, kept))

    def cut(self, labels: Tensor) -> Tensor:
        """Puts the labels (n, h, w) of pixels that come from another image in their place."""
        return torch.where(self._inside(labels), labels[self.partners], labels)

    def count(self, task: Task, targets: Tensor) -> Tensor:
        """How many labels each mixed image has, (n,): the parts of both whose labels are not missing."""
        own, other = self._weigh(task, *self._both(task, targets))
        return own + other

    def losses(self, task: Task, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The losses (n,) of mixed images, and how many labels each is of.

        An image has the labels of both, each as much as there is of it; a missing one counts for nothing.
        """
        targets, others = self._both(task, targets)
        own, other = self._weigh(task, targets, others)
        losses = own * task.training_losses(outputs, targets) + other * task.training_losses(outputs, others)
        return losses, own + other

    def _both(self, task: Task, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The labels of each image and of its partner; labels of pixels go with their pixels."""
        targets = self.cut(targets) if task.dense else targets
        return targets, targets[self.partners]

    def _weigh(self, task: Task, targets: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        kept = torch.where(self._has_box, 1.0, self.kept) if task.dense else self.kept
        return kept * task.valid(targets), (1 - kept) * task.valid(others)

    @property
    def _has_box(self) -> Tensor:
        return (self.boxes[:, 2] > self.boxes[:, 0]) & (self.boxes[:, 3] > self.boxes[:, 1])

    def _inside(self, images: Tensor) -> Tensor:
        """Which pixels come from the other image, in a shape that broadcasts to ``images``."""
        height, width = images.shape[-2:]
        y = (torch.arange(height, device=images.device) + 0.5) / height
        x = (torch.arange(width, device=images.device) + 0.5) / width
        top, left, bottom, right = self.boxes.unbind(1)
        rows = (y >= top[:, None]) & (y < bottom[:, None])
        columns = (x >= left[:, None]) & (x < right[:, None])
        inside = rows[:, :, None] & columns[:, None, :]
        return inside.view(len(images), *[1] * (images.dim() - 3), height, width)


def find_partners(places: Tensor) -> Tensor:
    """Where the other image of each pair is, (n,); an image whose other one was not read gets itself."""
    there = torch.searchsorted(places, places ^ 1).clamp(max=max(len(places) - 1, 0))
    found = places[there] == places ^ 1
    return torch.where(found, there, torch.arange(len(places)))


def _choose_area(schedule: ScheduleConfig, rng: np.random.Generator, pairs: int) -> np.ndarray:
    """Which pairs swap a box; half of them where both ways are wanted."""
    if schedule.mixup and schedule.cutmix:
        return rng.random(pairs) < 0.5
    return np.full(pairs, schedule.cutmix is not None)


def _draw_boxes(rng: np.random.Generator, areas: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) of such parts of an image around places drawn evenly, cut at the edges, in whole pixels."""
    sides = np.sqrt(areas)[:, None] / 2
    centres = rng.random((len(areas), 2))
    pixels = np.asarray(size)
    first = np.round((centres - sides).clip(0, 1) * pixels) / pixels
    last = np.round((centres + sides).clip(0, 1) * pixels) / pixels
    return np.concatenate([first, last], 1)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
