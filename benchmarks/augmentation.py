"""Images per second of random changes on a processor: ours by Pillow, timm's by Pillow, kornia's on tensors.

    python -m benchmarks.augmentation [--side 224] [--images 64] [--rounds 7]

Each takes decoded images in colour to tensors from 0 to 1, on one thread: two operations of RandAugment, of
magnitude 9. kornia works on the whole batch. They take turns; a ratio is theirs to ours of the same round. timm
leaves out half of the operations by default; here it makes all of them, as the paper has it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from random import Random
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from benchmarks.peers import timm  # which makes torchvision importable
from benchmarks.tables import header, row


def make_images(count: int, side: int) -> list[Image.Image]:
    """Smooth pictures, as photographs are."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return [Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC) for pixels in small]


def make_ours(side: int) -> Callable[[Sequence[Image.Image]], object]:
    from classy_vision.data.config import DataConfig
    from classy_vision.data.preprocessing import Preprocessing

    augment = {"policy": "randaugment", "magnitude": 9}
    data = DataConfig.parse(
        {"image_size": side, "augment": augment, "mean": [0.0] * 3, "std": [1.0] * 3}, "data"
    )
    see = Preprocessing(data)
    return lambda images: [see.read_views(image, 3, Random(i)) for i, image in enumerate(images)]


def make_timm(side: int) -> Callable[[Sequence[Image.Image]], object]:
    options = {"translate_const": int(0.45 * side), "img_mean": (124, 116, 104)}
    change = timm.data.rand_augment_transform("rand-m9-n2-p1.0", options)

    def run(images: Sequence[Image.Image]) -> object:
        changed = (change(image) for image in images)
        return [np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255 for image in changed]

    return run


def make_kornia(side: int) -> Callable[[Sequence[Image.Image]], object]:
    import kornia.augmentation as K  # noqa: N812

    policy = K.auto.RandAugment(n=2, m=9)
    change = K.AugmentationSequential(policy)

    def run(images: Sequence[Image.Image]) -> object:
        pixels = np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2)
        return change(torch.from_numpy(pixels).float() / 255)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = make_images(options.images, options.side)
    makers = {"ours": make_ours, "timm": make_timm, "kornia": make_kornia}
    runs = {name: make(options.side) for name, make in makers.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(options.rounds + 1):
        for name, run in runs.items():
            start = perf_counter()
            run(images)
            seconds[name].append(perf_counter() - start)
    print(header("", "images per second", "time / ours"))
    for name, measured in seconds.items():
        rates = statistics.median(options.images / s for s in measured[1:])
        ratios = statistics.median(s / ours for s, ours in zip(measured[1:], seconds["ours"][1:]))
        print(row([name, f"{rates:.0f}", f"{ratios:.2f}"]))


if __name__ == "__main__":
    main()
