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

# (ours, torchvision's, timm's), (our early block, torchvision's node, timm's index)
MODELS = [
    (("resnet50", "resnet50", "resnet50"), ("block0", "layer1", 1)),
    (("resnext50_32x4d", "resnext50_32x4d", "resnext50_32x4d"), ("block0", "layer1", 1)),
    (("regnet_y_1.6gf", "regnet_y_1_6gf", "regnety_016"), ("block1", "trunk_output.block1", 1)),
    (("densenet121", "densenet121", "densenet121"), ("block_0", "features.denseblock1", 1)),
    (("efficientnet_b0", "efficientnet_b0", "efficientnet_b0"), ("block1", "features.2", 1)),
    (("vit_b_16", "vit_b_16", "vit_base_patch16_224"), ("layer_1", "encoder.layers.encoder_layer_1.add_1", 1)),
]
OURS = {"efficientnet_b0": {"bn_epsilon": 1e-5, "heads": []}}  # as the peers
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
    """Each library's way to an early feature, all with torchvision's weights."""
    block, node, index = taps
    theirs = torchvision.models.get_model(names[1]).eval()
    ours = build_model(names[0], **OURS.get(names[0], {})).eval()
    state = _in_our_order(theirs.state_dict())
    ours.load_state_dict(dict(zip(ours.state_dict(), state.values())))

    whole = timm.create_model(names[2]).state_dict()
    values = TIMM_REGNET.save(state) if "regnet" in names[2] else dict(zip(whole, state.values(), strict=True))

    def timm_model(**options: object) -> nn.Module:
        model = timm.create_model(names[2], features_only=True, out_indices=(index,), **options).eval()
        model.load_state_dict({key: _find(values, key) for key in model.state_dict()})
        return model

    extractor = create_feature_extractor(theirs, [node])
    plain, hooks = timm_model(), timm_model(feature_cls="hook")
    return {
        "whole trunk": lambda x: ours.extract_features(x),
        "ours": lambda x: ours.features(x, [block])[block],
        "ours, a head there": _headed(ours, names[0], block),
        "timm features_only": lambda x: plain(x)[0],
        "timm feature_cls='hook'": lambda x: hooks(x)[0],
        "torchvision extractor": lambda x: extractor(x)[node],
    }


def _in_our_order(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's weights; those of its vision transformer begin in another order."""
    first = [key for key in ("class_token", "encoder.pos_embedding") if key in state]
    return {key: state[key] for key in (*first, *(key for key in state if key not in first))}


def _find(values: dict[str, Tensor], key: str) -> Tensor:
    """A weight by the name it has in one of timm's feature models."""
    for prefix in ("body.", "model."):
        key = key.removeprefix(prefix)
    return values[key] if key in values else values[key.replace("features_", "features.")]


def as_map(feature: Tensor) -> Tensor:
    """Tokens behind a class token as a map; timm gives maps, and without the class token."""
    if feature.dim() == 4:
        return feature
    side = int((feature.shape[1] - 1) ** 0.5)
    return feature[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))


def _headed(model: ClassyModel, name: str, block: str) -> Run:
    twin = build_model(name, **OURS.get(name, {})).eval()
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
    rows = {names[0]: run_model(names, taps, x, options.rounds) for names, taps in MODELS}
    print("| ms |", " | ".join(next(iter(rows.values()))), "|")
    print("|---|" + "---:|" * len(next(iter(rows.values()))))
    for model, medians in rows.items():
        cells = [f"{ms:.1f} ({ms / medians['ours']:.2f})" for ms in medians.values()]
        print(f"| {model} |", " | ".join(cells), "|")


def run_model(
    names: tuple[str, str, str], taps: tuple[str, str, int], x: Tensor, rounds: int
) -> dict[str, float]:
    """Medians of one model, once all have given the same feature."""
    runs = contenders(names, taps)
    with torch.inference_mode():
        wanted = as_map(runs["ours"](x))
        for name in ("timm features_only", "timm feature_cls='hook'", "torchvision extractor"):
            torch.testing.assert_close(as_map(runs[name](x)), wanted, rtol=1e-4, atol=1e-4)
    return measure(runs, x, rounds)


if __name__ == "__main__":
    main()
