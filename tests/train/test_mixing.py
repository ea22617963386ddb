"""Mixup and CutMix: what is drawn, and losses and gradients of cases that are worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from classy_vision.train.config import ScheduleConfig, TaskConfig
from classy_vision.train.mixing import Mixture, find_partners
from classy_vision.train.tasks import KINDS, Task

NO_BOX = torch.zeros(2, 4)


def make_task(kind: str, **options: Any) -> Task:
    config = TaskConfig.parse({"kind": kind, **options}, "tasks.x")
    return KINDS[kind]("x", config)


def mixture(kept: float, boxes: Tensor = NO_BOX) -> Mixture:
    return Mixture(torch.tensor([1, 0]), torch.tensor([kept, kept]), boxes)


def draw(places: Tensor, size: tuple[int, int] = (8, 8), step: int = 1, **options: Any) -> Mixture:
    schedule = ScheduleConfig(batch_size=8, **options)
    return Mixture.draw(schedule, 0, step, places, size)


def test_pairs_are_those_of_the_global_batch() -> None:
    assert find_partners(torch.tensor([0, 1, 2, 3])).tolist() == [1, 0, 3, 2]
    assert find_partners(torch.tensor([4, 5, 7])).tolist() == [1, 0, 2]  # the other one of 7 was not read
    assert find_partners(torch.tensor([], dtype=torch.long)).tolist() == []


def test_what_is_drawn_depends_on_the_place_alone() -> None:
    whole = draw(torch.arange(8), mixup=0.4, cutmix=1.0)
    half = draw(torch.arange(4, 8), mixup=0.4, cutmix=1.0)
    assert torch.equal(whole.kept[4:], half.kept)
    assert torch.equal(whole.boxes[4:], half.boxes)
    assert torch.equal(whole.kept[::2], whole.kept[1::2])
    assert not torch.equal(whole.kept, draw(torch.arange(8), step=2, mixup=0.4, cutmix=1.0).kept)


def test_an_image_whose_partner_is_missing_stays_as_it_is() -> None:
    drawn = draw(torch.tensor([0, 1, 3]), cutmix=1.0)
    images = torch.rand(3, 1, 3, 8, 8)
    assert drawn.kept[2] == 1
    assert torch.equal(drawn.mix(images)[2], images[2])


def test_some_pairs_are_left_alone() -> None:
    schedule = ScheduleConfig(batch_size=2000, mixup=1.0, mix_probability=0.3)
    kept = Mixture.draw(schedule, 0, 1, torch.arange(2000), (8, 8)).kept
    assert (kept < 1).float().mean() == pytest.approx(0.3, abs=0.05)


def test_the_kept_part_is_the_area_that_was_not_replaced() -> None:
    zeros_and_ones = torch.arange(8).remainder(2).float()[:, None, None, None, None].expand(8, 1, 3, 16, 24)
    drawn = draw(torch.arange(8), (16, 24), cutmix=1.0)
    mixed = drawn.mix(zeros_and_ones)
    assert set(mixed.unique().tolist()) == {0, 1}
    own = (mixed == zeros_and_ones).float().flatten(1).mean(1)
    torch.testing.assert_close(own, drawn.kept)
    assert (own > 0).all()
    assert own.min() < 0.9


def test_mixup_of_images_and_clips() -> None:
    images = torch.rand(2, 1, 3, 4, 5)
    torch.testing.assert_close(mixture(0.75).mix(images)[0], 0.75 * images[0] + 0.25 * images[1])
    clips = torch.rand(2, 1, 3, 2, 4, 5)
    torch.testing.assert_close(mixture(0.75).mix(clips)[1], 0.75 * clips[1] + 0.25 * clips[0])
    box = torch.tensor([[0.0, 0.0, 0.5, 1.0]] * 2)
    cut = mixture(0.5, box).mix(clips)
    assert torch.equal(cut[0, ..., :2, :], clips[1, ..., :2, :])
    assert torch.equal(cut[0, ..., 2:, :], clips[0, ..., 2:, :])


def test_losses_and_gradients_of_classes_by_hand() -> None:
    task = make_task("classification", classes=["a", "b"])
    outputs = torch.zeros(2, 2, requires_grad=True)
    losses, counts = mixture(0.75).losses(task, outputs, torch.tensor([0, 1]))
    torch.testing.assert_close(losses, torch.full((2,), math.log(2)))
    assert counts.tolist() == [1, 1]
    losses.sum().backward()  # softmax - (0.75, 0.25)
    torch.testing.assert_close(outputs.grad, torch.tensor([[-0.25, 0.25], [0.25, -0.25]]))


def test_a_missing_label_takes_its_part_with_it() -> None:
    task = make_task("classification", classes=["a", "b"])
    outputs = torch.zeros(2, 2, requires_grad=True)
    losses, counts = mixture(0.75).losses(task, outputs, torch.tensor([0, -100]))
    assert counts.tolist() == [0.75, 0.25]
    assert torch.equal(counts, mixture(0.75).count(task, torch.tensor([0, -100])))
    torch.testing.assert_close(losses, counts * math.log(2))
    losses.sum().backward()
    torch.testing.assert_close(outputs.grad, torch.tensor([[-0.375, 0.375], [-0.125, 0.125]]))


def test_several_labels_by_hand() -> None:
    task = make_task("multilabel", classes=["a", "b"])
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    outputs = torch.zeros(2, 2, requires_grad=True)
    losses, _ = mixture(0.75).losses(task, outputs, targets)
    losses.sum().backward()  # (sigmoid - mixed target) / classes
    torch.testing.assert_close(outputs.grad, torch.tensor([[-0.25, 0.125], [-0.25, -0.125]]))


def test_numbers_by_hand() -> None:
    task = make_task("regression", mean=0.0, std=1.0)
    outputs = torch.zeros(2, 1, requires_grad=True)
    losses, counts = mixture(0.75).losses(task, outputs, torch.tensor([4.0, math.nan]))
    assert counts.tolist() == [0.75, 0.25]
    assert losses.tolist() == [12, 4]
    losses.sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.tolist() == [[-6], [-2]]


def test_masks_are_cut_with_their_images() -> None:
    task = make_task("segmentation", classes=["a", "b"])
    masks = torch.stack([torch.zeros(4, 4, dtype=torch.uint8), torch.ones(4, 4, dtype=torch.uint8)])
    box = torch.tensor([[0.0, 0.0, 0.5, 1.0]] * 2)
    outputs = torch.zeros(2, 2, 4, 4, requires_grad=True)
    losses, counts = mixture(0.5, box).losses(task, outputs, masks)
    assert counts.tolist() == [1, 1]
    losses.sum().backward()
    assert outputs.grad is not None
    wanted = torch.full((4, 4), -0.5 / 16)
    wanted[:2] = 0.5 / 16  # where the label comes from the other image
    torch.testing.assert_close(outputs.grad[0, 0], wanted)


def test_masks_of_mixed_pixels_count_by_their_parts() -> None:
    task = make_task("segmentation", classes=["a", "b"])
    masks = torch.stack([torch.zeros(4, 4, dtype=torch.uint8), torch.full((4, 4), 255, dtype=torch.uint8)])
    outputs = torch.zeros(2, 2, 4, 4, requires_grad=True)
    losses, counts = mixture(0.75).losses(task, outputs, masks)
    assert counts.tolist() == [0.75, 0.25]
    torch.testing.assert_close(losses, counts * math.log(2))
