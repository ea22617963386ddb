"""Branches are dropped at the rates of the peers."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from classy_vision.layers.stochastic_depth import StochasticDepth
from classy_vision.models import build_model

RATE = 0.3


def ours(name: str) -> list[float]:
    with torch.device("meta"):
        model = build_model(name, stochastic_depth=RATE)
    return [part.rate for part in model.modules() if isinstance(part, StochasticDepth) and part.rate]


def timms(name: str, **options: Any) -> list[float]:
    model = timm.create_model(name, drop_path_rate=RATE, **options)
    return [rate for part in model.modules() if (rate := getattr(part, "drop_prob", None))]


def torchvisions(name: str) -> list[float]:
    model: nn.Module = getattr(torchvision.models, name)(stochastic_depth_prob=RATE)
    kind = torchvision.ops.StochasticDepth
    return [part.p for part in model.modules() if isinstance(part, kind) and part.p]


@pytest.mark.parametrize(
    ("name", "peer"), [("resnet18", "resnet18"), ("resnet50", "resnet50"), ("regnet_y_400mf", "regnety_004")]
)
def test_rates_are_timms(name: str, peer: str) -> None:
    assert ours(name) == pytest.approx(timms(peer))


def test_rates_of_vision_transformers_are_timms() -> None:
    # timm drops the two branches of a layer by a module each.
    assert ours("vit_b_16") == pytest.approx(timms("vit_base_patch16_224")[::2])


def test_rates_of_efficientnets_are_the_peers() -> None:
    assert ours("efficientnet_b0") == pytest.approx(torchvisions("efficientnet_b0"))
    assert ours("efficientnet_b0") == pytest.approx(timms("efficientnet_b0"))
