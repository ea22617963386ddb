"""Stages that a config gives: which blocks they make, and what is said of wrong ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from classy_vision.config import ConfigError
from classy_vision.models import MODELS, build_model
from classy_vision.models.efficientnet import BLOCK_PARAMS, MODEL_PARAMS
from classy_vision.models.efficientnet.blocks import round_width
from classy_vision.models.efficientnet.networks import NETWORKS

FAMILY = "efficientnet"


def small(*rows: dict[str, Any], **options: Any) -> Any:
    torch.manual_seed(0)
    config = {"name": FAMILY, "stages": [list(rows)], "stem_width": 8, "head_width": 0, "heads": []}
    return build_model({**config, **options})


def keys(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


@pytest.mark.parametrize("scale", ["B0", "B2"])
def test_the_scales_are_rows_like_any_other(scale: str) -> None:
    rows = [[row.model_dump(mode="json", exclude_unset=True) for row in stage] for stage in BLOCK_PARAMS]
    given = {"name": FAMILY, "stages": rows, "model_params": MODEL_PARAMS[scale].model_dump()}
    with torch.device("meta"):
        assert keys(build_model(given)) == keys(build_model(f"efficientnet_{scale.lower()}"))


def test_every_network_has_a_preset() -> None:
    named = [e.preset.get("stages", FAMILY) for e in MODELS if e.is_preset and e.family == FAMILY]
    assert {*named} == {*NETWORKS}


def test_a_row_is_a_stage() -> None:
    row = {"block": "fused", "channels": 8, "repeats": 2}
    listed, plain = small(row), small(row, stages=[row])
    assert listed.to_config() == plain.to_config()
    assert listed.block_names == ["stem", "block0-0", "block0-1", "block0", "blocks", "trunk_output"]


@pytest.mark.parametrize(
    ("row", "convolutions"),
    [
        ({"block": "conv"}, ["conv"]),
        ({"block": "fused", "expansion": 2}, ["expand", "project"]),
        ({"block": "separable"}, ["depthwise", "project"]),
        ({"block": "mbconv", "expansion": 2}, ["expand", "depthwise", "project"]),
        ({"block": "universal", "kernel": 0}, ["expand", "project"]),
        ({"block": "universal", "kernel_before": 5}, ["before", "expand", "depthwise", "project"]),
    ],
)
def test_kinds_of_blocks(row: dict[str, Any], convolutions: list[str]) -> None:
    model = small({**row, "channels": 8})
    found = [name for name, part in model.blocks["block0-0"].named_modules() if type(part) is torch.nn.Conv2d]
    assert [name.removesuffix(".conv") for name in found] == convolutions


def test_kernels_share_the_channels() -> None:
    model = small({"block": "mbconv", "channels": 8, "kernel": [3, 5, 7], "expansion": 2, "groups": [2, 4]})
    convs = model.blocks["block0-0"].depthwise.conv
    assert [(c.in_channels, c.kernel_size[0]) for c in convs] == [(6, 3), (5, 5), (5, 7)]
    assert [
        model.blocks["block0-0"].get_submodule(f"{name}.conv").groups for name in ("expand", "project")
    ] == [2, 4]


@pytest.mark.parametrize("block", ["conv", "fused", "separable"])
@pytest.mark.parametrize("shortcut", [True, False])
def test_shortcuts(block: str, shortcut: bool) -> None:
    """Also after an activation that keeps its output for the gradient."""
    model = small({"block": block, "channels": 8, "shortcut": shortcut}, activation="relu").double()
    x = torch.randn(2, 8, 6, 6, dtype=torch.double, requires_grad=True)
    part = model.blocks["block0-0"]
    out = part(x)
    for parameter in part.parameters():
        parameter.data.zero_()
    assert torch.equal(part(x), x if shortcut else torch.zeros_like(x))
    out.sum().backward()
    assert x.grad is not None


def test_hidden_layer_of_the_default_head() -> None:
    model = small(
        {"block": "conv", "channels": 8}, heads=None, hidden={"width": 5, "bias": False}, num_classes=3
    )
    (head,) = model.get_heads()["trunk_output"]
    assert head.to_config() == {
        "name": "mobilenet_head",
        "unique_id": "default_head",
        "num_classes": 3,
        "hidden_dim": 5,
        "bias": False,
        "activation": "silu",
        "dropout_rate": 0.2,
    }
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 3)


@pytest.mark.parametrize(("width", "rounded"), [(1.0, 8), (12.0, 16), (20.0, 24), (35.2, 32), (84.0, 88)])
def test_widths_are_rounded(width: float, rounded: int) -> None:
    assert round_width(width, 8) == rounded


ROW = {"block": "mbconv", "channels": 8}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("mobilenetv3_large", "unknown network 'mobilenetv3_large'; did you mean 'mobilenet_v3_large'?"),
        ([], "the name of a network or a list of stages is needed"),
        ([3], "stage 0 must be a list of mappings"),
        ([[ROW], []], "stage 1 must be a list of mappings"),
        ([[ROW], [{**ROW, "chanels": 3}]], "stage 1: unknown key 'chanels'; did you mean 'channels'"),
        ([[{"block": "mbconv"}]], "key 'channels' is required"),
        ([[{**ROW, "block": "mbcov"}]], "stage 0: block = 'mbcov'"),
        ([[{**ROW, "heads": 4}]], "a block of the kind 'mbconv' does not take heads"),
        ([[{**ROW, "kernel": 0}]], "kernel = 0 is for a block of the kind 'universal'"),
        ([[{**ROW, "block": "fused", "kernel": [3, 5]}]], "a block of the kind 'fused' has one kernel"),
        ([[{**ROW, "block": "attention", "stride": 2}]], "stride = 2 needs a convolution that has it"),
        ([[{**ROW, "block": "universal", "kernel": 0, "stride": 2}]], "stride = 2 needs a convolution"),
    ],
)
def test_wrong_stages(stages: Any, message: str) -> None:
    with pytest.raises(ConfigError, match="stages = ") as error:
        build_model({"name": FAMILY, "stages": stages})
    assert message in str(error.value)
    assert len(str(error.value)) < 1200


def test_biases_of_convolutions_begin_at_zero() -> None:
    model = build_model("efficientnet_b0", num_classes=2)
    biases = [m.bias for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
    assert len(biases) == 2 * 16, "two in the squeeze-and-excitation of each block"
    assert not any(bias.any() for bias in biases)
