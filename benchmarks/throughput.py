"""Images per second of whole training epochs from JPEG files: ``classy train``, timm's way, and a plain loop.

    python -m benchmarks.throughput [--images 600] [--rounds 3] [--workers 2] [--model regnet_x_400mf]

A folder of smooth JPEGs of 256 to 640 px is written first. All train the same network with channels last at
224 px on random crops and mirror images, by SGD in batches of 32:

- classy: the command ``classy train`` as it is, with its figures of each epoch;
- timm: ``create_dataset``, ``create_loader`` and ``create_optimizer_v2``, in a loop as its script has it;
- plain: torch's DataLoader and Pillow, in a loop of ten lines.

Each contender of a round has a process of its own, and trains two epochs, of which the second counts; they take
turns. Peak memory is the resident set of the largest process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.tables import about, header, row
from benchmarks.timing import own_process, ratio
from classy_vision.models import ClassyModel, build_model

SIZE, BATCH, EPOCHS, CLASSES = 224, 32, 2, 4
CROP = (0.35, 1.0)
HEAD = {"name": "fully_connected", "unique_id": "label", "fork_block": "trunk_output"}
CONTENDERS = ("classy", "timm", "plain")


def write_images(root: Path, count: int) -> None:
    """Smooth JPEGs of many sizes, in a folder for each class, and some that are held out."""
    rng = np.random.default_rng(0)
    for i in range(count + CLASSES):
        split = "train" if i < count else "val"
        folder = root / split / str(i % CLASSES)
        folder.mkdir(parents=True, exist_ok=True)
        width, height = rng.integers(256, 641, 2)
        small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
        small.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg", quality=90)


def make_network(name: str) -> ClassyModel:
    torch.manual_seed(0)
    head = {
        "name": "fully_connected",
        "unique_id": "label",
        "fork_block": "trunk_output",
        "num_classes": CLASSES,
    }
    return build_model({"name": name, "heads": [head]}).to(memory_format=torch.channels_last)


def run_classy(root: Path, name: str, workers: int) -> float:
    config = {
        "model": {"name": name, "heads": [HEAD]},
        "data": {
            "source": "folder",
            "root": str(root),
            "image_size": SIZE,
            "augment": {"flip": 0.5, "crop": list(CROP)},
        },
        "schedule": {"epochs": EPOCHS, "batch_size": BATCH, "optimizer": "sgd", "workers": workers},
    }
    with tempfile.TemporaryDirectory() as folder:
        job, run = Path(folder) / "job.json", Path(folder) / "run"
        job.write_text(json.dumps(config))
        command = [sys.executable, "-m", "classy_vision.cli", "train", job, "-o", run]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        rows = json.loads((run / "metrics.json").read_text())["epochs"]
    return float(rows[-1]["images_per_second"])


def run_timm(root: Path, name: str, workers: int) -> float:
    from benchmarks import peers  # noqa: F401 (which makes timm importable)
    from timm.data import create_dataset, create_loader  # isort: skip
    from timm.optim import create_optimizer_v2  # isort: skip

    dataset = create_dataset("", root=str(root / "train"), is_training=True)
    loader = create_loader(
        dataset,
        (3, SIZE, SIZE),
        BATCH,
        is_training=True,
        scale=CROP,
        hflip=0.5,
        interpolation="bilinear",
        num_workers=workers,
        use_prefetcher=False,
        device=torch.device("cpu"),
        persistent_workers=workers > 0,
    )
    model = make_network(name)
    return _time_epochs(model, create_optimizer_v2(model, opt="sgd", lr=1e-3, momentum=0.9), loader)


class Images(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Files, cropped at random, resized and mirrored by Pillow."""

    def __init__(self, root: Path) -> None:
        self.files = sorted(root.rglob("*.jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.open(self.files[index]).convert("RGB")
        side = min(image.size) * random.uniform(*CROP) ** 0.5
        left, top = (random.uniform(0, whole - side) for whole in image.size)
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        return pixels.div_(127.5).sub_(1), int(self.files[index].parent.name)


def run_plain(root: Path, name: str, workers: int) -> float:
    loader = torch.utils.data.DataLoader(
        Images(root / "train"), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    model = make_network(name)
    return _time_epochs(model, torch.optim.SGD(model.parameters(), 1e-3, 0.9, fused=True), loader)


def _time_epochs(
    model: nn.Module, optimizer: torch.optim.Optimizer, loader: Iterable[tuple[Tensor, Tensor]]
) -> float:
    """Images per second of the last epoch."""
    model.train()
    for _ in range(EPOCHS):
        start, images = time.perf_counter(), 0
        for x, y in loader:
            cross_entropy(model(x.to(memory_format=torch.channels_last)), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            images += len(x)
    return images / (time.perf_counter() - start)


RUNS: dict[str, Callable[[Path, str, int], float]] = {
    "classy": run_classy,
    "timm": run_timm,
    "plain": run_plain,
}


def _peak_of(whom: int) -> int:
    return resource.getrusage(whom).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default="regnet_x_400mf")
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "FOLDER"), help="run one and print it as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        rate = RUNS[options.one[0]](Path(options.one[1]), options.model, options.workers)
        peak = max(map(_peak_of, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))) / 1024
        print(json.dumps({"rate": rate, "peak": peak}))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images)
        for turn in range(options.rounds):
            for name in CONTENDERS[turn % 3 :] + CONTENDERS[: turn % 3]:
                arguments = ("--one", name, folder, "--model", options.model, "--workers", options.workers)
                found[name].append(own_process("throughput", *arguments))
    print(about(1, options.model, f"{options.workers} workers", f"batches of {BATCH}"))
    print(header("", "images/s", "classy / it", "peak MiB"))
    rates = {name: [one["rate"] for one in runs] for name, runs in found.items()}
    for name, runs in found.items():
        peak = statistics.median(one["peak"] for one in runs)
        shown = f"{statistics.median(rates[name]):.1f}", f"{ratio(rates['classy'], rates[name]):.2f}"
        print(row([name, *shown, f"{peak:.0f}"]))


if __name__ == "__main__":
    main()
