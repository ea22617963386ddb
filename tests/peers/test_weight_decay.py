"""The parameters that decay are those that timm's optimizers decay."""

from __future__ import annotations

import pytest
import timm
from timm.optim import param_groups_weight_decay

from classy_vision.models import ClassyModel
from classy_vision.train.config import ScheduleConfig
from classy_vision.train.optimizer import make_optimizer


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "resnet18",
        "convnext_atto",
        "swin_tiny_patch4_window7_224",
    ],
)
def test_a_wrapped_model_decays_as_in_timm(name: str) -> None:
    theirs = timm.create_model(name)
    spared = getattr(theirs, "no_weight_decay", lambda: ())()
    others, decaying = param_groups_weight_decay(theirs, 0.3, no_weight_decay_list=spared)
    wrapped = ClassyModel.from_model(theirs, input_shape=theirs.default_cfg["input_size"])
    ours = make_optimizer(wrapped, ScheduleConfig(weight_decay=0.3)).param_groups
    assert {id(p) for p in ours[0]["params"]} == {id(p) for p in decaying["params"]}
    assert {id(p) for p in ours[1]["params"]} == {id(p) for p in others["params"]}
