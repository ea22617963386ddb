"""What a feature of an early stage costs: ours, timm's, torchvision's and the original's, in one run.

    python -m benchmarks.taps [--size 224] [--rounds 15] [--threads 1]

All have the same weights, their features are compared first, and they take turns. Printed are medians,
and ratios of medians. The original has no way to features but a head, here one that gives what it reads;
wherever a head is, the original runs the whole trunk. EfficientNet's inner blocks take none there.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import original
from benchmarks.models import NAMES, images, models
from benchmarks.peers import create_feature_extractor, timm, torchvision
from benchmarks.tables import about, header, row
from benchmarks.timing import clocked, medians
from classy_vision.heads import FullyConnectedHead
from classy_vision.models import ClassyModel
from classy_vision.trunk.saving import to_layout


class Early(NamedTuple):
    """The end of an early stage, as each library calls it."""

    ours: str
    torchvision: str
    timm: int
    original: str | None


MODELS = {
    "resnet50": Early("block0", "layer1", 1, "block0-2"),
    "resnext50_32x4d": Early("block0", "layer1", 1, "block0-2"),
    "regnet_y_1.6gf": Early("block1", "trunk_output.block1", 1, "block1"),
    "densenet121": Early("block_0", "features.denseblock1", 1, "block_0"),
    "efficientnet_b0": Early("block1", "features.2", 1, None),
    "vit_b_16": Early("layer_1", "encoder.layers.encoder_layer_1.add_1", 1, "layer_1"),
}
HEAD = "ours, a head there"
TRUNK = "whole trunk"


def contenders(name: str) -> tuple[ClassyModel, dict[str, Callable[[Tensor], Tensor]]]:
    """Our model, and each way in this process to an early feature, with the same weights."""
    early = MODELS[name]
    every = dict(models(name))
    ours, theirs = every["ours"], every["torchvision"]
    values = to_layout(ours, "timm")

    def timm_model(**options: object) -> nn.Module:
        names = {"features_only": True, "out_indices": (early.timm,), **options}
        model = timm.create_model(NAMES[name].timm, **names).eval()
        model.load_state_dict({key: _find(values, key) for key in model.state_dict()})
        return model

    extractor = create_feature_extractor(theirs, [early.torchvision])
    plain, hooks = timm_model(), timm_model(feature_cls="hook")
    return ours, {
        TRUNK: ours.extract_features,
        "ours": lambda x: ours.features(x, [early.ours])[early.ours],
        HEAD: _headed(ours, early.ours),
        "timm features_only": lambda x: plain(x)[0],
        "timm feature_cls='hook'": lambda x: hooks(x)[0],
        "torchvision extractor": lambda x: extractor(x)[early.torchvision],
    }


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


def _headed(model: ClassyModel, block: str) -> ClassyModel:
    twin = copy.deepcopy(model)
    twin.set_heads({block: [FullyConnectedHead("head", 10)]})
    return twin


def run_model(name: str, x: Tensor, rounds: int) -> dict[str, float]:
    """Medians of one model, once all have given the same feature."""
    with torch.inference_mode(), ExitStack() as stack:
        ours, calls = contenders(name)
        runs = {what: clocked(partial(call, x)) for what, call in calls.items()}
        features = {what: call(x) for what, call in calls.items() if what not in (TRUNK, HEAD)}
        if original.there(name) and MODELS[name].original:
            theirs = stack.enter_context(original.Original())
            theirs.load(name, ours, x, tap=MODELS[name].original)
            what = f"{original.NAME}, a head there"
            feature, runs[what] = theirs.forward("plain")
            features[what] = feature if feature.dim() == 4 else feature.transpose(0, 1)  # its tokens come first
        wanted = as_map(features["ours"])
        for feature in features.values():
            torch.testing.assert_close(as_map(feature), wanted, rtol=1e-4, atol=1e-4)
        return medians(runs, rounds, warmup=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    versions = (f"timm {timm.__version__}", f"torchvision {torchvision.__version__}")
    rounds = ("batch 1", f"{options.size} px", f"{options.rounds} rounds")
    print(about(options.threads, *versions, *rounds, *original.note()))
    rows = {name: run_model(name, images(name, 1, options.size), options.rounds) for name in MODELS}
    columns = list(dict.fromkeys(what for found in rows.values() for what in found))
    print(header("ms", *columns))
    for model, found in rows.items():
        cells = {what: f"{ms:.1f} ({ms / found['ours']:.2f})" for what, ms in found.items()}
        print(row([model, *(cells.get(what, "") for what in columns)]))


if __name__ == "__main__":
    main()
