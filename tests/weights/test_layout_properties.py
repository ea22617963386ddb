"""Going to any layout and back loses nothing, whatever the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from classy_vision.models import build_model, load_weights
from classy_vision.trunk.saving import to_layout

few = st.integers(1, 3)
SE = st.booleans()


@st.composite
def resnext(draw: st.DrawFn) -> dict[str, Any]:
    basic = draw(st.booleans())
    config = {"name": "resnext", "num_blocks": draw(st.lists(few, min_size=1, max_size=4)), "init_planes": 8}
    config |= {"basic_layer": basic, "use_se": draw(SE), "se_reduction_ratio": 4}
    if not basic:
        config["base_width_and_cardinality"] = draw(st.sampled_from([None, [2, 4], [16, 1]]))
    return config


@st.composite
def densenet(draw: st.DrawFn) -> dict[str, Any]:
    config = {"name": "densenet", "num_blocks": draw(st.lists(few, min_size=1, max_size=4))}
    config |= {"growth_rate": draw(st.sampled_from([4, 6])), "init_planes": 8, "use_se": False}
    return config | {"final_bn_relu": draw(st.booleans()), "small_input": draw(st.booleans())}


@st.composite
def anynet(draw: st.DrawFn) -> dict[str, Any]:
    stages = draw(few)
    blocks = ["res_bottleneck_block", "res_bottleneck_linear_block"]
    return {
        "name": "anynet",
        "depths": draw(st.lists(few, min_size=stages, max_size=stages)),
        "widths": [16] * stages,
        "group_widths": [draw(st.sampled_from([4, 8]))] * stages,
        "bottleneck_multipliers": [draw(st.sampled_from([0.5, 1.0, 2.0]))] * stages,
        "strides": [2] * stages,
        "stem_width": 8,
        "block_type": draw(st.sampled_from(blocks)),
        "use_se": draw(SE),
    }


@st.composite
def efficientnet(draw: st.DrawFn) -> dict[str, Any]:
    scale = {"width_coefficient": 0.25, "depth_coefficient": draw(st.sampled_from([0.3, 0.5, 1.1]))}
    return {"name": "efficientnet", "model_params": {**scale, "resolution": 64, "dropout_rate": 0.0}}


@st.composite
def vision_transformer(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2, 4]))
    return {
        "name": "vision_transformer",
        "image_size": draw(st.sampled_from([16, [16, 24]])),
        "patch_size": 8,
        "num_layers": draw(few),
        "num_heads": heads,
        "hidden_dim": 8 * heads,
        "mlp_dim": draw(st.sampled_from([8, 24])),
        "classifier": draw(st.sampled_from(["token", "gap"])),
    }


@st.composite
def resnext3d(draw: st.DrawFn) -> dict[str, Any]:
    kinds = ["basic_transformation", "basic_r2plus1d_transformation", "postactivated_bottleneck_transformation"]
    kind = draw(st.sampled_from(kinds))
    return {
        "name": "resnext3d",
        "frames_per_clip": 4,
        "clip_crop_size": 32,
        "skip_transformation_type": "postactivated_shortcut",
        "residual_transformation_type": kind,
        "stem_name": draw(st.sampled_from(["resnext3d_stem", "r2plus1d_stem"])),
        "num_blocks": draw(st.lists(few, min_size=1, max_size=4)),
        "stem_planes": 8,
        "stage_planes": 8,
        "width_per_group": 4,
        "stage_temporal_pool": [draw(st.sampled_from([1, 2])), 1, 1, 1],
    }


FAMILIES = {
    "resnext": resnext(),
    "densenet": densenet(),
    "anynet": anynet(),
    "efficientnet": efficientnet(),
    "vision_transformer": vision_transformer(),
    "resnext3d": resnext3d(),
}
# What a layout has no words for.
NOT = {
    ("resnext", "pycls"): lambda config: config["use_se"],
    ("resnext", "transformers"): lambda config: config["use_se"],
    # Of models without learned positions, and without a class token.
    ("vision_transformer", "transformers_dinov3"): lambda config: True,
    ("vision_transformer", "transformers_aimv2"): lambda config: config["classifier"] == "token",
    ("vision_transformer", "transformers_siglip"): lambda config: config["classifier"] == "token",
    ("vision_transformer", "transformers_videomae"): lambda config: True,
    ("vision_transformer", "transformers_vjepa2"): lambda config: True,
    ("resnext3d", "pytorchvideo"): lambda config: "r2plus1d" in str(config),
    ("resnext3d", "slowfast"): lambda config: "r2plus1d" in str(config),
}


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_nothing_is_lost(family: str, data: st.DataObject) -> None:
    config = data.draw(FAMILIES[family])
    head = {"name": "fully_connected", "unique_id": "end", "num_classes": 3, "fork_block": "trunk_output"}
    with torch.device("meta"):
        model, other = (build_model({**config, "heads": [head]}) for _ in range(2))
    values = {
        key: torch.rand(value.shape) if value.is_floating_point() else torch.tensor(7)
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(values, assign=True)
    for layout in ("native", "classy_vision", *model.foreign_key_maps()):
        if NOT.get((family, layout), lambda config: False)(config):
            continue
        report = load_weights(other, to_layout(model, layout), layout=layout)
        assert sorted(report.loaded) == sorted(values)
        assert report.dropped == {}
        assert all(torch.equal(value, values[key]) for key, value in other.state_dict().items())
        other.load_state_dict({key: value + 1 for key, value in values.items()})
