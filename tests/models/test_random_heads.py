"""Random configs with heads, whose states go through the original's layouts and back.

What the original computes from the same weights is in the golden vectors; here its key layouts are
checked on configs that nobody chose: its state, and its raw ``state_dict()`` with heads attached, in
which every block with a head has ``._module`` behind its name.
"""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch

from classy_vision.cost import count
from classy_vision.models import ClassyModel, build_model

SMALL: dict[str, list[dict[str, Any]]] = {
    "resnext": [
        {"num_blocks": [1, 2], "init_planes": 8, "small_input": True, "reduction": 1},
        {"num_blocks": [1, 1], "init_planes": 8, "use_se": True, "final_bn_relu": False},
        {"num_blocks": [1, 1], "init_planes": 8, "base_width_and_cardinality": [2, 4]},
    ],
    "densenet": [
        {"num_blocks": [2, 1], "init_planes": 8, "growth_rate": 4, "use_se": True, "se_reduction_ratio": 2},
    ],
    "regnet": [
        {"depth": 4, "w_0": 16, "w_a": 10.7, "w_m": 2.51, "group_width": 4},
        {
            "depth": 4, "w_0": 16, "w_a": 10.7, "w_m": 2.51, "group_width": 4, "activation": "silu",
            "block_type": "res_bottleneck_linear_block", "bottleneck_multiplier": 4.0,
        },
    ],
    "efficientnet": [
        {
            "model_params": {
                "width_coefficient": 0.25, "depth_coefficient": 0.3, "resolution": 32, "dropout_rate": 0.2,
            },
            "bn_momentum": 0.01, "bn_epsilon": 1e-3, "drop_connect_rate": 0.2,
            "width_divisor": 8, "min_width": None, "use_se": True,
        },
    ],
    "vision_transformer": [
        {
            "image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16,
            "mlp_dim": 32, "classifier": classifier,
        }
        for classifier in ("token", "gap")
    ],
    "resnext3d": [
        {
            "input_planes": 3, "clip_crop_size": 32, "frames_per_clip": 4, "num_blocks": [1, 2],
            "skip_transformation_type": f"{kind}_shortcut", "stem_planes": 8, "stage_planes": 8,
            "residual_transformation_type": f"{kind}_bottleneck_transformation", "width_per_group": 4,
        }
        for kind in ("postactivated", "preactivated")
    ],
    "mlp": [{"input_dim": 12, "output_dim": 6, "hidden_dims": [8, 10], "use_batchnorm": True}],
}  # fmt: skip


def draw(seed: int) -> dict[str, Any]:
    """A config of any family with up to three heads on any of its blocks."""
    rng = random.Random(seed)
    name = rng.choice(sorted(SMALL))
    config = {"name": name, **copy.deepcopy(rng.choice(SMALL[name]))}
    blocks = build_model({**config, "heads": []}).block_names
    heads = []
    for number in range(rng.randint(1, 3)):
        head: dict[str, Any] = {"unique_id": f"head{number}", "fork_block": rng.choice(blocks)}
        kinds = ["fully_connected", "identity", "fully_convolutional_linear", "vision_transformer_head"]
        head["name"] = rng.choice(kinds)
        if head["name"] != "identity":
            head["num_classes"] = rng.randint(2, 5)
        if head["name"] in ("fully_connected", "vision_transformer_head"):
            head["normalize_inputs"] = rng.choice([None, "l2"])
        heads.append(head)
    return {**config, "heads": heads}


def randomized(config: dict[str, Any], seed: int) -> ClassyModel:
    """The model in float64, in evaluation, with every tensor drawn: no head starts at zero."""
    model = build_model(config).double().eval()
    torch.manual_seed(seed)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "running_var" in key else 0.2 * torch.randn_like(value))
    return model


def wrapped(key: str, blocks: set[str], modules: set[str]) -> str:
    """A trunk key of the original as it stands where its blocks have heads."""
    return ".".join(f"{part}._module" if part in blocks & modules else part for part in key.split("."))


def raw(model: ClassyModel) -> dict[str, torch.Tensor]:
    state = model.get_classy_state()["model"]
    blocks = set(state["heads"])
    inner = {part for key in state["trunk"] for part in key.split(".")[:-1]}
    found = {
        f"_heads.{block}.{head}.{key}": value
        for block, heads in state["heads"].items()
        for head, tensors in heads.items()
        for key, value in tensors.items()
    }
    return found | {wrapped(key, blocks, inner): value for key, value in state["trunk"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_random_heads(seed: int) -> None:
    config = draw(seed)
    model = randomized(config, seed)
    x = torch.randn(2, *model.input_shape, dtype=torch.float64)
    wanted = model(x)
    ids: list[str] = []  # by block, as it comes first in the config
    for block in dict.fromkeys(head["fork_block"] for head in config["heads"]):
        ids += [head["unique_id"] for head in config["heads"] if head["fork_block"] == block]
    if len(ids) > 1:
        assert list(wanted) == ids
    for state in (model.get_classy_state(deep_copy=True), raw(model), {"model": raw(model)}):
        twin = randomized(config, seed + 1)
        twin.set_classy_state(state)
        torch.testing.assert_close(twin(x), wanted, rtol=0, atol=0)
    costs = count(model)
    assert {step.name for step in costs.steps if step.reads} == set(ids)
    assert costs.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("block", ["ln", "layer_1", "trunk_output"])
@pytest.mark.parametrize("head", ["identity", "fully_connected"])
def test_a_raw_checkpoint_of_a_transformer(block: str, head: str) -> None:
    heads = [{"name": head, "unique_id": "a", "fork_block": block}]
    config = {"name": "vision_transformer", **SMALL["vision_transformer"][0], "heads": heads}
    model, twin = randomized(config, 0), randomized(config, 1)
    assert any("._module." in key for key in raw(model)) or block == "trunk_output"
    twin.load_state_dict(raw(model))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(twin(x), model(x), rtol=0, atol=0)
