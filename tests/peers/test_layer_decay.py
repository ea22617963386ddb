"""Layer-wise learning rates: the groups and scales are timm's, family by family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm import create_model
from timm.optim import param_groups_layer_decay

from classy_vision.models import ClassyModel, build_model
from classy_vision.train.config import ScheduleConfig
from classy_vision.train.optimizer import group_parameters

SCHEDULE = ScheduleConfig(layer_decay=0.7, weight_decay=0.05)
NAMES = {
    "resnet18": "resnet18",
    "resnext50_32x4d": "resnext50_32x4d",
    "wide_resnet50_2": "wide_resnet50_2",
    "regnet_y_400mf": "regnety_004",
    "regnet_x_400mf": "regnetx_004",
    "densenet121": "densenet121",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_v2_s": "tf_efficientnetv2_s",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "vit_b_16": "vit_base_patch16_224",
}


def ours(model: ClassyModel) -> list[tuple[float, float, int, int]]:
    return summarise(group_parameters(model, SCHEDULE), "scale")


def summarise(groups: list[dict[str, Any]], scale: str) -> list[tuple[float, float, int, int]]:
    """Of each group the scale, the weight decay, and how many parameters and numbers it has."""
    return sorted(
        (
            round(group[scale], 12),
            group["weight_decay"],
            len(group["params"]),
            sum(p.numel() for p in group["params"]),
        )
        for group in groups
    )


@pytest.mark.parametrize(("name", "theirs"), NAMES.items())
def test_groups_are_those_of_timm(name: str, theirs: str) -> None:
    with torch.device("meta"):
        model, peer = build_model(name, num_classes=7), create_model(theirs, num_classes=7)
    wanted = param_groups_layer_decay(
        peer,
        SCHEDULE.weight_decay,
        no_weight_decay_list=getattr(peer, "no_weight_decay", set)(),
        layer_decay=0.7,
    )
    assert ours(model) == summarise(wanted, "lr_scale")


def test_a_wrapped_vision_transformer() -> None:
    """What stands before its first block belongs to that, and the last norm to the last one."""
    peer = create_model("vit_tiny_patch16_224", num_classes=0, depth=3)
    model = ClassyModel.from_model(peer, [f"blocks.{i}" for i in range(3)])
    layers = model.parameter_layers()
    assert layers["model.blocks.0.attn.qkv.weight"] == 0
    assert layers["model.patch_embed.proj.weight"] == 0
    assert layers["model.blocks.2.mlp.fc2.weight"] == 2
    assert layers["model.norm.weight"] == 2
