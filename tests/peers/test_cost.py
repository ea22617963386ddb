"""Our counts beside fvcore's: the same, but for what docs/costs.md tells."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

from classy_vision.cost import Costs, count
from classy_vision.models import ClassyModel, build_model

pytestmark = pytest.mark.skipif(not find_spec("fvcore"), reason="needs fvcore")


def both(preset: str) -> tuple[ClassyModel, Costs, dict[str, int], dict[str, int]]:
    """The model, our counts, and fvcore's FLOPs (multiply-adds) and activations by operator."""
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

    model = build_model(preset, num_classes=1000).eval()
    costs = count(model)
    found = []
    for analysis in (FlopCountAnalysis, ActivationCountAnalysis):
        counter = analysis(model, torch.zeros(1, *model.input_shape))
        found.append(dict(counter.unsupported_ops_warnings(False).by_operator()))
    return model, costs, *found


@pytest.mark.parametrize(
    "preset",
    ["resnet50", "resnext50_32x4d", "regnet_x_400mf", "regnet_y_400mf", "densenet121", "efficientnet_b0"],
)
def test_convolutional_networks(preset: str) -> None:
    _, costs, flops, activations = both(preset)
    assert costs.activations == sum(activations.values())
    assert costs.macs == flops["conv"] + flops["linear"]
    assert {*flops} == {"conv", "linear", "batch_norm"}  # fvcore counts norms


def test_a_vision_transformer() -> None:
    model, costs, flops, activations = both("vit_b_16")
    layers, heads, tokens, width = 12, 12, 197, 768
    assert {*flops} == {"conv", "linear", "layer_norm"}
    # fvcore knows nothing of scaled_dot_product_attention: two products of all tokens with all.
    assert costs.macs == flops["conv"] + flops["linear"] + layers * 2 * tokens**2 * width
    scores = layers * (heads * tokens**2 + tokens * width)
    assert costs.activations == sum(activations.values()) + scores
    assert model.config.num_layers == layers  # type: ignore[attr-defined]
