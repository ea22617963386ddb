"""How long it takes to import a library and to build its models.

    python -m benchmarks.construction [--rounds 7] [--threads 1]

Imports are timed in fresh processes, beyond ``import torch``. Models are built with random weights,
as their libraries initialise them, contenders taking turns; medians are shown.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

# ours: torchvision's, timm's
MODELS = {
    "resnet50": ("resnet50", "resnet50"),
    "resnext101_32x8d": ("resnext101_32x8d", "resnext101_32x8d"),
    "regnet_y_1.6gf": ("regnet_y_1_6gf", "regnety_016"),
    "regnet_y_32gf": ("regnet_y_32gf", "regnety_320"),
    "densenet201": ("densenet201", "densenet201"),
    "efficientnet_b0": ("efficientnet_b0", "efficientnet_b0"),
    "efficientnet_b7": ("efficientnet_b7", "efficientnet_b7"),
    "vit_b_16": ("vit_b_16", "vit_base_patch16_224"),
    "vit_l_16": ("vit_l_16", "vit_large_patch16_224"),
}
IMPORTS = {
    "classy_vision.models": "import classy_vision.models",
    "timm": "import benchmarks.operators, timm",
    "torchvision.models": "import benchmarks.operators, torchvision.models",
}


def import_seconds(statement: str) -> float:
    """Of ``statement`` in a fresh process, beyond torch."""
    code = f"import torch, time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def builders(name: str) -> dict[str, Callable[[], object]]:
    """Each library's call."""
    from benchmarks.peers import timm, torchvision
    from classy_vision.models import build_model

    of_torchvision, of_timm = MODELS[name]
    return {
        "ours": lambda: build_model(name, num_classes=1000),
        "torchvision": lambda: torchvision.models.get_model(of_torchvision),
        "timm": lambda: timm.create_model(of_timm),
    }


def measure(name: str, rounds: int) -> dict[str, float]:
    """Median seconds of each, taking turns."""
    calls = builders(name)
    times: dict[str, list[float]] = {library: [] for library in calls}
    for turn in range(rounds + 1):
        for library, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[library].append(time.perf_counter() - start)
    return {library: statistics.median(values) for library, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(options.rounds):
        for name, statement in IMPORTS.items():
            seconds[name].append(import_seconds(statement))
    print("| import | seconds beyond torch |\n|---|---:|")
    for name, values in seconds.items():
        print(f"| {name} | {statistics.median(values):.2f} |")
    print(
        "\n| build, ms | ours | torchvision | timm | ours / fastest peer | ours / timm |\n|---|" + "---:|" * 5
    )
    for name in MODELS:
        ours, *theirs = (1e3 * value for value in measure(name, options.rounds).values())
        cells = [f"{ours:.0f}", *(f"{value:.0f}" for value in theirs)]
        cells += [f"{ours / min(theirs):.2f}", f"{ours / theirs[1]:.2f}"]
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
