"""What a feature of an early stage costs: ours, timm's and torchvision's, in one run.

    python -m benchmarks.taps [--size 224] [--rounds 15] [--threads 1]

All have the same weights, their features are compared first, and they take turns, so that a
machine that slows down slows all of them. Printed are medians, and ratios of medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.peers import create_feature_extractor, timm, torchvision
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel, build_model
from classy_vision.weights.key_map import KeyMap

Run = Callable[[Tensor], Tensor]

# (ours, torchvision's, timm's), (our end of stage 1, torchvision's node, timm's index)
MODELS = [
    (("resnet50", "resnet50", "resnet50"), ("block0", "layer1", 1)),
    (("resnext50_32x4d", "resnext50_32x4d", "resnext50_32x4d"), ("block0", "layer1", 1)),
    (("regnet_y_1.6gf", "regnet_y_1_6gf", "regnety_016"), ("block1", "trunk_output.block1", 1)),
]
_TIMM_BLOCK = "s{s}.b{i+1}"
_TV_BLOCK = "trunk_output.block{s}.block{s}-{i}"
TIMM_REGNET = KeyMap(
    "timm",
    [
        ("stem.conv", "stem.0"),
        ("stem.bn", "stem.1"),
        ("head.fc", "fc"),
        *(
            (f"{_TIMM_BLOCK}.{theirs}", f"{_TV_BLOCK}.{tv}")
            for theirs, tv in {
                "conv1.conv": "f.a.0",
                "conv1.bn": "f.a.1",
                "conv2.conv": "f.b.0",
                "conv2.bn": "f.b.1",
                "se": "f.se",
                "conv3.conv": "f.c.0",
                "conv3.bn": "f.c.1",
                "downsample.conv": "proj.0",
                "downsample.bn": "proj.1",
            }.items()
        ),
    ],
)


def contenders(names: tuple[str, str, str], taps: tuple[str, str, int]) -> dict[str, Run]:
    """Each library's way to the feature at the end of stage 1, all with torchvision's weights."""
    block, node, index = taps
    theirs = torchvision.models.get_model(names[1]).eval()
    ours = build_model(names[0]).eval()
    values = [v for k, v in theirs.state_dict().items() if not k.startswith("fc.")]
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))

    def timm_model(**options: object) -> nn.Module:
        state = theirs.state_dict()
        state = TIMM_REGNET.save(state) if "regnet" in names[2] else state
        model = timm.create_model(names[2], features_only=True, out_indices=(index,), **options).eval()
        model.load_state_dict({key: state[key.removeprefix("body.")] for key in model.state_dict()})
        return model

    extractor = create_feature_extractor(theirs, [node])
    plain, hooks = timm_model(), timm_model(feature_cls="hook")
    return {
        "whole trunk": lambda x: ours.extract_features(x),
        "ours": lambda x: ours.features(x, [block])[block],
        "ours, a head there": _headed(ours, block),
        "timm features_only": lambda x: plain(x)[0],
        "timm feature_cls='hook'": lambda x: hooks(x)[0],
        "torchvision extractor": lambda x: extractor(x)[node],
    }


def _headed(model: ClassyModel, block: str) -> Run:
    twin = build_model(type(model).__name__.lower(), **model.config.model_dump()).eval()
    twin.load_state_dict(model.state_dict())
    twin.set_heads({block: [FullyConnectedHead("head", 10)]})
    return twin


def measure(runs: dict[str, Run], x: Tensor, rounds: int) -> dict[str, float]:
    """Median milliseconds of each, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for turn in range(rounds + 2):
            for name, run in runs.items():
                start = time.perf_counter()
                run(x)
                if turn >= 2:
                    times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.randn(1, 3, options.size, options.size)
    print(f"torch {torch.__version__}, timm {timm.__version__}, torchvision {torchvision.__version__}; ")
    print(f"batch 1, {options.size} px, {options.threads} thread(s), {options.rounds} rounds\n")
    print("| model | way | ms | against ours |\n|---|---|---:|---:|")
    for names, taps in MODELS:
        runs = contenders(names, taps)
        with torch.inference_mode():
            wanted = runs["ours"](x)
            for name in ("timm features_only", "timm feature_cls='hook'", "torchvision extractor"):
                torch.testing.assert_close(runs[name](x), wanted, rtol=1e-4, atol=1e-4)
        medians = measure(runs, x, options.rounds)
        for name, value in medians.items():
            print(f"| {names[0]} | {name} | {value:.1f} | {value / medians['ours']:.2f} |")


if __name__ == "__main__":
    main()
