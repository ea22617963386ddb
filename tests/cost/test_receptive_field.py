"""Receptive fields: those of autograd, those that are known, and what has none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from classy_vision.cost import OnMeta, StepCost, count
from classy_vision.models import ClassyModel, build_model


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.branch(x)], 1)


def steps(module: nn.Module, *shape: int) -> StepCost:
    return count(ClassyModel.from_model(module, input_shape=shape).eval()).steps[-1]


def seen(module: nn.Module, size: int) -> int:
    """Rows of the input that have a gradient from the middle row of the output."""
    for parameter in module.parameters():
        nn.init.ones_(parameter)
    x = torch.ones(1, 1, size, size, requires_grad=True)
    y = module(x)
    y[:, :, y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    assert x.grad is not None
    rows = x.grad.sum((0, 1, 3)).nonzero().flatten()
    return int(rows[-1] - rows[0] + 1)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(1, 2, 1),
        nn.Conv2d(1, 2, (5, 3), stride=(3, 1), padding=(2, 1)),
        nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=2, dilation=2)),
        nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3)),
        nn.Sequential(nn.Conv2d(1, 2, 3), Residual(nn.Conv2d(2, 2, 5, padding=2)), nn.Conv2d(4, 1, 3)),
        nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ConvTranspose2d(2, 2, 2, 2), nn.Conv2d(2, 1, 1)),
        nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ConvTranspose2d(2, 2, 4, 2, 1)),
        nn.Sequential(nn.Conv2d(1, 2, 4, 4), nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 1)),
    ],
    ids=str,
)
def test_as_autograd_sees_it(module: nn.Module) -> None:
    assert steps(module, 1, 64, 64).receptive_field == seen(module, 64)


def test_pooling_by_the_maximum_is_a_window_too() -> None:
    found = steps(nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.MaxPool2d(3, 2, 1)), 1, 64, 64)
    assert found.receptive_field == 3 + 2 * 2


# Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", 2019: 483 for ResNet-50,
# with the stride of a stage in the last 3x3 of the one before; here it is in the first of its own.
@pytest.mark.parametrize(
    ("preset", "rows", "gated"),
    [("resnet18", 435, False), ("resnet50", 427, False), ("regnet_y_400mf", 575, True)],
)
def test_presets(preset: str, rows: int, gated: bool) -> None:
    with OnMeta():
        model = build_model(preset, num_classes=10)
    *_, end, head = count(model.eval()).steps
    assert (end.receptive_field, end.gated) == (rows, gated)
    assert (head.receptive_field, head.gated) == (None, False)


def test_fields_of_clips_are_those_of_their_height() -> None:
    module = nn.Conv3d(1, 2, (5, 3, 1), (2, 1, 1), (2, 1, 0))
    assert steps(module, 1, 8, 16, 16).receptive_field == 3


def test_attention_sees_everything() -> None:
    with OnMeta():
        model = build_model("vit_b_32", num_classes=10)
    fields = [step.receptive_field for step in count(model.eval()).steps]
    assert fields[0] == 32
    assert set(fields[1:]) == {None}


def test_vectors_have_no_field() -> None:
    costs = count(build_model("mlp", input_dim=4, output_dim=2, hidden_dims=[3]))
    assert {step.receptive_field for step in costs.steps} == {None}
    assert steps(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), 1, 8, 8).receptive_field is None
