"""One small config per family, with two heads of one kind at two blocks."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor

from classy_vision.models import ClassyModel, build_model

# name: config, an early block, the deepest block that is read (not the end)
FAMILIES: dict[str, tuple[dict[str, Any], str, str]] = {
    "anynet": (
        {
            "name": "anynet",
            "depths": [1, 2, 1],
            "widths": [16, 24, 32],
            "group_widths": [8, 8, 8],
            "bottleneck_multipliers": [1.0, 1.0, 1.0],
            "strides": [1, 2, 2],
            "stem_width": 8,
        },
        "block1",
        "block2-1",
    ),
    "densenet": (
        {
            "name": "densenet",
            "num_blocks": [2, 1, 1],
            "init_planes": 8,
            "growth_rate": 4,
            "small_input": True,
        },
        "block_0",
        "transition-1",
    ),
    "efficientnet": (
        {
            "name": "efficientnet",
            "stochastic_depth": 0.0,
            "model_params": {
                "width_coefficient": 0.25,
                "depth_coefficient": 0.5,
                "resolution": 64,
                "dropout_rate": 0.0,
            },
            "heads": [],
        },
        "block1",
        "block4-1",
    ),
    "mobile": (  # an efficientnet of every other kind of block
        {
            "name": "efficientnet",
            "stochastic_depth": 0.0,
            "stem_width": 8,
            "head_width": 16,
            "layer_scale": 0.5,
            "activation": "hardswish",
            "squeeze": {"of": "expanded", "divisor": 8, "activation": "relu", "gate": "hardsigmoid"},
            "stages": [
                [
                    {"block": "conv", "channels": 8, "kernel": 1},
                    {"block": "fused", "channels": 8, "stride": 2, "expansion": 2, "repeats": 2},
                ],
                [
                    {"block": "universal", "channels": 16, "kernel_before": 3, "kernel": 0, "stride": 2},
                    {"block": "universal", "channels": 16, "kernel_before": 3, "kernel": 5, "expansion": 1.5},
                    {"block": "attention", "channels": 16, "heads": 2, "head_width": 4, "key_stride": 2},
                ],
                [
                    {"block": "mbconv", "channels": 16, "kernel": [3, 5], "expansion": 2, "groups": [2, 2]},
                    {"block": "separable", "channels": 16, "squeeze": 0.25, "project_activation": True},
                ],
            ],
            "heads": [],
        },
        "block1-0",
        "block2-0",
    ),
    "regnet": (
        {"name": "regnet", "depth": 5, "w_0": 8, "w_a": 8.0, "w_m": 2.0, "group_width": 8},
        "block1",
        "block2",
    ),
    "resnet": ({"name": "resnet", "num_blocks": [1, 1, 1], "init_planes": 8}, "block0", "block1-0"),
    "resnext": (
        {
            "name": "resnext",
            "num_blocks": [1, 2, 1],
            "init_planes": 8,
            "base_width_and_cardinality": [2, 4],
            "use_se": True,
        },
        "block0",
        "block1-0",
    ),
    "resnext3d": (
        {
            "name": "resnext3d",
            "input_planes": 3,
            "frames_per_clip": 4,
            "clip_crop_size": 32,
            "skip_transformation_type": "preactivated_shortcut",
            "residual_transformation_type": "preactivated_bottleneck_transformation",
            "num_blocks": [1, 2, 1],
            "stem_planes": 8,
            "stage_planes": 16,
            "width_per_group": 4,
        },
        "pathway0-stage1",
        "pathway0-stage2-block0",
    ),
    "mlp": (
        {"name": "mlp", "input_dim": 3072, "output_dim": 4, "hidden_dims": [8, 6], "use_batchnorm": True},
        "layer0",
        "layer1",
    ),
    "vision_transformer": (
        {
            "name": "vision_transformer",
            "image_size": 32,
            "patch_size": 8,
            "num_layers": 3,
            "num_heads": 2,
            "hidden_dim": 16,
            "mlp_dim": 32,
        },
        "layer_0",
        "layer_1",
    ),
    "clips": (  # a vision transformer over clips, with positions of both kinds
        {
            "name": "vision_transformer",
            "image_size": 32,
            "patch_size": 8,
            "frames_per_clip": 4,
            "num_layers": 3,
            "num_heads": 2,
            "hidden_dim": 16,
            "mlp_dim": 32,
            "classifier": "gap",
            "pos_embed": "sincos",
            "qkv_bias": "qv",
            "rotary": {"kind": "tiled"},
        },
        "layer_0",
        "layer_1",
    ),
}
CLIPS = ("resnext3d", "clips")
"""Families of clips."""
IMAGES = [family for family in FAMILIES if family not in ("mlp", *CLIPS)]  # nothing but images
HEADS: dict[str, dict[str, Any]] = {
    "fully_connected": {"num_classes": 3},
    "fully_convolutional_linear": {"num_classes": 3},
    "vision_transformer_head": {"num_classes": 3, "hidden_dim": 4},
    "mobilenet_head": {"num_classes": 3, "hidden_dim": 4},
    "identity": {},
    "linear_dense": {"num_classes": 3},
    "pyramid": {"num_classes": 3, "width": 8, "branch_width": 6, "dropout_rate": 0.0},
    "attention_pool": {"num_classes": 3, "num_heads": 1, "depth": 2},
    "concat": {"num_classes": 3, "norm": "layer"},
    "dpt": {"num_classes": 3, "width": 8, "channels": 4, "dropout_rate": 0.0},
}
SEVERAL = ("concat", "dpt", "linear_dense", "pyramid")
"""Heads that read both blocks, beside an ordinary one."""
DENSE = ("dpt", "linear_dense", "pyramid")
"""Heads that read maps alone."""
SEVERAL_LAYERS = ("attention_pool", "dpt", "pyramid")
"""Heads whose outputs would grow from layer to layer."""
CASES = [
    (family, head)
    for family in FAMILIES
    for head in HEADS
    if head not in DENSE or family not in ("mlp", *CLIPS)
]
# The quick part of them: every family with some head, and every head with some family.
QUICK = {(family, list(HEADS)[i % len(HEADS)]) for i, family in enumerate(FAMILIES)}


def config(family: str, head: str = "fully_connected") -> dict[str, Any]:
    base, early, late = FAMILIES[family]
    options = {"name": head, **HEADS[head]}
    beside = {"name": "fully_connected", "num_classes": 3} if head in SEVERAL else options
    return {
        **base,
        "heads": [
            {**options, "unique_id": "early", "fork_block": [early, late] if head in SEVERAL else early},
            {**beside, "unique_id": "late", "fork_block": late},
        ],
    }


def build(family: str, head: str = "fully_connected", **more: Any) -> ClassyModel:
    torch.manual_seed(0)
    model = build_model(config(family, head), **more)
    for name, tensor in model.state_dict().items():  # heads that start at zero would agree always
        if name.startswith("heads.") and tensor.is_floating_point():
            tensor.uniform_(0.1, 1.0)
            if head in SEVERAL_LAYERS and tensor.dim() > 1:
                tensor /= tensor[0].numel()
    return model


def batch(size: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def loss(outputs: dict[str, Tensor]) -> Tensor:
    return sum((o.square().mean() for o in outputs.values()), torch.zeros(()))


def wrong_answers(model: ClassyModel, threads: int = 4, calls: int = 100) -> list[int]:
    """Lets threads share the model, each with an input of its own; gives those that got others' answers."""
    inputs = [batch(seed=seed) for seed in range(threads)]
    with torch.no_grad():
        wanted = [model(x) for x in inputs]
    wrong: list[int] = []

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(calls):
                given = model(inputs[index])
                if any(not torch.allclose(given[k], wanted[index][k], atol=1e-5) for k in given):
                    wrong.append(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return wrong
