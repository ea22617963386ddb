"""Estimates of memory beside what torch's allocator gave out, as Markdown: python -m tests.cost.peaks"""

from __future__ import annotations

from typing import Any

import torch

from classy_vision.cost import Memory, count
from classy_vision.cost.free_memory import measure_peak as peak
from classy_vision.cost.memory import in_mode
from classy_vision.cost.receptive_field import tensors_in
from classy_vision.models import ClassyModel, build_model

BATCH = 4
FAMILIES: dict[str, dict[str, Any]] = {
    "AnyNet": {
        "name": "anynet",
        "depths": [1, 2, 4, 2],
        "widths": [32, 64, 160, 320],
        "group_widths": [16, 16, 16, 16],
        "bottleneck_multipliers": [1.0, 1.0, 1.0, 1.0],
        "strides": [2, 2, 2, 2],
        "num_classes": 10,
    },
    "RegNet": {"name": "regnet_y_400mf", "num_classes": 10},
    "ResNet": {"name": "resnet50", "num_classes": 10},
    "ResNeXt": {"name": "resnext50_32x4d", "num_classes": 10},
    "DenseNet": {"name": "densenet121", "num_classes": 10},
    "DenseNet, recomputing": {"name": "densenet121", "num_classes": 10, "gradient_checkpointing": True},
    "EfficientNet": {"name": "efficientnet_b0", "num_classes": 10},
    "VisionTransformer": {"name": "vit_b_16", "num_classes": 10},
    "VisionTransformer, recomputing": {"name": "vit_b_16", "num_classes": 10, "gradient_checkpointing": True},
    "ResNeXt3D": {"name": "slow_r50", "num_classes": 10},
    "MLP": {"name": "mlp", "input_dim": 784, "output_dim": 10, "hidden_dims": [512, 512]},
}


def batch_of(family: str) -> int:
    return 2 if family == "ResNeXt3D" else BATCH


def measured(model: ClassyModel, batch: int, training: bool) -> int:
    """The most bytes from torch's allocator, of weights, input, features and gradients."""

    def call() -> None:
        x = torch.randn(batch, *model.input_shape)
        outputs = tensors_in([model(x)])
        if training:
            torch.autograd.backward([output.sum() for output in outputs])

    with in_mode(model, training) as model:
        call()
        model.zero_grad(set_to_none=True)
        weights = sum(t.untyped_storage().nbytes() for t in (*model.parameters(), *model.buffers()))
        return weights + peak(call, torch.device("cpu"))


def compare(family: str, training: bool) -> tuple[Memory, int]:
    """The estimate, and what was measured."""
    model = build_model(FAMILIES[family])
    batch = batch_of(family)
    return count(model.eval()).memory(batch, training=training), measured(model, batch, training)


if __name__ == "__main__":
    for family, config in FAMILIES.items():
        cells = [family, f"`{config['name']}`", str(batch_of(family))]
        for training in (False, True):
            estimate, found = compare(family, training)
            off = 100 * (estimate.peak / found - 1)
            cells += [f"{estimate.peak / 1e6:.1f}", f"{found / 1e6:.1f}", f"{off:+.1f} %"]
        print("| " + " | ".join(cells) + " |", flush=True)
