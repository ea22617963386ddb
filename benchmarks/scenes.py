"""Four heads on one trunk beside each head alone, and beside segmentation_models' FPN decoder, on scenes.

    python -m benchmarks.scenes [--seeds 5] [--epochs 24]

``configs/scenes.yaml`` with a fourth stage, because the peer's decoder reads four levels. A seed is of weights,
order and dropout; scenes and split are always the same. All arms have the config's optimizer, rates, batches
and losses, and the same number of epochs:

- four heads, in one run of ``classy train``;
- each head alone, in a run of its own;
- FPN: the same trunk and, of segmentation_models, its FPN decoder and head, as wide as ours, in a plain loop.

Numbers are of the held-out scenes after the last epoch, mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.tables import header, row
from classy_vision.config import read_config
from classy_vision.models import build_model
from classy_vision.train import TrainConfig, train
from classy_vision.train.job import Job, prepare
from classy_vision.train.optimizer import learning_rate

CONFIG = Path(__file__).parents[1] / "configs" / "scenes.yaml"
BLOCKS = ("block1", "block2", "block3", "block4")
FOURTH = {"depths": 1, "widths": 128, "strides": 2, "group_widths": 128, "bottleneck_multipliers": 1.0}
SHOWN = {"digits": "mAP", "count": "mae", "mask": "mIoU", "distance": "rmse"}
"""A metric of each head."""
WIDTH, DROPOUT = 32, 0.1


def make_config(seed: int, epochs: int, heads: tuple[str, ...]) -> dict[str, Any]:
    """The config with a fourth stage, with some of its heads."""
    config: dict[str, Any] = dict(read_config(CONFIG))
    model = config["model"]
    for key, value in FOURTH.items():
        model[key] = [*model[key], value]
    for head in model["heads"]:
        if head["unique_id"] == "mask":
            head["fork_block"] = list(BLOCKS)
    model["heads"] = [head for head in model["heads"] if head["unique_id"] in heads]
    config["tasks"] = {head: {**config["tasks"][head]} for head in heads}
    if len(heads) == 1:
        config["tasks"][heads[0]].pop("weight", None)  # there is nothing to weigh it against
    config["schedule"] |= {"seed": seed, "epochs": epochs}
    return config


def train_ours(seed: int, epochs: int, heads: tuple[str, ...]) -> dict[str, float]:
    """The metric of each head after a run."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        measured = train(TrainConfig.parse(make_config(seed, epochs, heads)), Path(folder) / "run")
    return {head: measured[f"val/{head}/{SHOWN[head]}"] for head in heads}


class WithFPN(nn.Module):
    """The trunk with the peer's decoder."""

    def __init__(self, config: dict[str, Any], classes: int) -> None:
        super().__init__()
        from benchmarks import peers  # noqa: F401 (which makes torchvision importable)
        from segmentation_models_pytorch.base import SegmentationHead  # isort: skip
        from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder  # isort: skip

        self.trunk = build_model({**config, "heads": []})
        self.decoder = FPNDecoder([3, *config["widths"]], 4, WIDTH, WIDTH, DROPOUT)
        self.head = SegmentationHead(WIDTH, classes, kernel_size=1, upsampling=1)

    def forward(self, x: Tensor) -> Tensor:
        features = self.trunk.features(x, BLOCKS)
        out: Tensor = self.head(self.decoder([features[block] for block in BLOCKS]))
        return out


def read(job: Job, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Images (n, 3, h, w) and masks (n, h, w)."""
    samples = [job.samples()[0, row] for row in rows]
    return torch.stack([sample.views[0] for sample in samples]), torch.stack(
        [torch.as_tensor(sample.dense["mask"]) for sample in samples]
    )


def train_fpn(seed: int, epochs: int) -> float:
    """The mIoU of the peer's decoder in a plain loop."""
    job = prepare(TrainConfig.parse(make_config(seed, epochs, ("mask",))))
    task, schedule = job.tasks["mask"], job.settings.schedule
    images, masks = read(job, job.records.rows(held_out=False))
    torch.manual_seed(seed)
    model = WithFPN(dict(job.settings.model), task.outputs).to(memory_format=torch.channels_last)
    decays = [p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": params, "weight_decay": wd} for params, wd in zip(decays, (schedule.weight_decay, 0.0))]
    )
    steps = -(-len(images) // schedule.batch_size)
    for epoch in range(epochs):
        model.train()
        for step, rows in enumerate(torch.randperm(len(images)).split(schedule.batch_size)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(schedule, epoch * steps + step, steps)
            task.training_losses(model(images[rows]), masks[rows]).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    held_out, wanted = read(job, job.records.rows(held_out=True))
    metric = task.metrics()["mIoU"]
    with torch.inference_mode():
        for x, targets in zip(held_out.split(100), wanted.split(100)):
            metric.update(*task.comparable(model.eval()(x), targets))
    return metric.compute_all("mIoU", lambda rows: rows)["mIoU"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=24)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, list[float]]] = {head: {"four": [], "alone": [], "fpn": []} for head in SHOWN}
    for seed in range(options.seeds):
        for head, value in train_ours(seed, options.epochs, tuple(SHOWN)).items():
            found[head]["four"].append(value)
        for head in SHOWN:
            found[head]["alone"].append(train_ours(seed, options.epochs, (head,))[head])
        found["mask"]["fpn"].append(train_fpn(seed, options.epochs))
        last = {head: {arm: round(v[-1], 4) for arm, v in arms.items() if v} for head, arms in found.items()}
        print(seed, last, file=sys.stderr, flush=True)
    print(header("", "metric", "four heads", "alone", "segmentation_models' FPN"))
    for head, arms in found.items():
        print(row([head, SHOWN[head], *map(_describe, arms.values())]))


def _describe(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}" if values else ""


if __name__ == "__main__":
    main()
