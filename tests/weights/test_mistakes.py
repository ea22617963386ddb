"""Mistakes that other libraries answer with a wrong model, an empty message or pages of key names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from classy_vision.models import build_model, load_weights, save_weights
from classy_vision.trunk.saving import to_layout

SMALL = {"name": "resnet", "num_blocks": [1, 1, 1, 1], "init_planes": 8, "basic_layer": True}
DEEPER = {**SMALL, "num_blocks": [2, 1, 1, 1]}
VIT = {
    "name": "vision_transformer",
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 8,
}
HEAD = {"name": "fully_connected", "unique_id": "a", "num_classes": 2, "fork_block": "trunk_output"}


def state_of(config: dict[str, Any], layout: str = "timm", classes: int = 3) -> dict[str, Any]:
    return to_layout(build_model(config, num_classes=classes), layout)


def prefixed(state: dict[str, Any]) -> dict[str, Any]:
    return {f"net.encoder.{key}": value for key, value in state.items()}


def option(name: str, **options: Any) -> Callable[[], Any]:
    return lambda: build_model(name, **options)


def loaded(state: Callable[[], Any], **options: Any) -> Callable[[], Any]:
    """A model for as many classes as the options say, from a file."""
    return lambda: build_model({**SMALL, **options}, weights=state())


def run(config: dict[str, Any], *shape: int) -> Callable[[], Any]:
    return lambda: build_model(config, num_classes=2)(torch.zeros(shape))


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "a name": (option("resnet5O"), "unknown model 'resnet5O'; did you mean 'resnet50'"),
    "a tag": (
        option("timm/resnet50.foo"),
        "'timm/resnet50.foo'; there are 'timm/resnet50.a1_in1k'",
    ),
    "a weights enum": (option("torchvision/resnet50.IMAGENET"), "did you mean 'torchvision/resnet50"),
    **{
        f"an option of {name}": (option(name, sochastic_depth=1), "unknown key 'sochastic_depth'; did you mean")
        for name in ("resnet50", "resnext", "densenet121", "densenet", "regnet_y_400mf", "regnet", "anynet")
    },
    "an option of efficientnet_b0": (option("efficientnet_b0", foo=1), "unknown key 'foo'"),
    "an option of vit_b_16": (
        option("vit_b_16", image_sise=2),
        "unknown key 'image_sise'; did you mean 'image_size'",
    ),
    "an activation": (option("regnet_y_400mf", activation="reluu"), "activation = 'reluu'.*relu"),
    "a stem": (option("regnet_y_400mf", stem_type="cifar"), "stem_type = 'cifar'"),
    "a negative number of classes": (option("resnet18", num_classes=-1), "num_classes = -1"),
    "a number of classes that is text": (option("resnet18", num_classes="10"), "num_classes = '10'"),
    "a depth that makes no stages": (option("regnet_y_400mf", depth=0), "depth = 0"),
    "a block": (
        lambda: build_model(SMALL).features(torch.zeros(1, 3, 32, 32), ["block9-9"]),
        "unknown block 'block9-9'",
    ),
    "a block by number": (lambda: build_model(SMALL).features(torch.zeros(1, 3, 32, 32), [9]), "9"),
    "a head's block": (
        option("resnet18", heads=[{**HEAD, "fork_block": "block9-9"}]),
        "unknown block 'block9-9'",
    ),
    "another architecture": (
        lambda: load_weights(build_model(SMALL), state_of(VIT)),
        "no key of the file is known",
    ),
    "another architecture's layout": (
        lambda: load_weights(build_model(VIT), state_of(SMALL, "torchvision")),
        "no key of the file is known",
    ),
    "another prefix": (
        lambda: load_weights(build_model(SMALL), prefixed(state_of(SMALL))),
        "prefix='net.encoder.'",
    ),
    "another prefix and number of classes": (
        loaded(lambda: prefixed(state_of(SMALL)), num_classes=10),
        "prefix='net.encoder.'",
    ),
    "another depth and number of classes": (
        loaded(lambda: state_of(DEEPER), num_classes=10),
        r"4 keys|5 keys|6 keys|layer1\.1",
    ),
    "too few tensors and another number of classes": (
        lambda: build_model(DEEPER, num_classes=10, weights=state_of(SMALL)),
        "missing",
    ),
    "another prefix, features only": (
        loaded(lambda: prefixed(state_of(SMALL)), heads=[]),
        "prefix='net.encoder.'",
    ),
    "another depth, features only": (loaded(lambda: state_of(DEEPER), heads=[]), r"layer1\.1"),
    "no checkpoint": (loaded(lambda: {"101": 3}), "1 key .101."),
    "no file": (loaded(lambda: "none.pth"), "no such weights file: 'none.pth'"),
    "an image size": (run(VIT, 1, 3, 36, 32), r"multiples of the patch size 8, not \(36, 32\)"),
    "channels of images": (run(SMALL, 1, 1, 32, 32), r"\(1, 1, 32, 32\)"),
    "one image": (run(VIT, 3, 32, 32), r"\(3, 32, 32\)"),
    "the width of a head": (
        option("resnet18", heads=[{**HEAD, "in_plane": 7}]),
        "expects in_plane=7, but block .trunk_output. has 512 channels",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake(case: str) -> None:
    """Is an error of a few lines that names what is wrong."""
    make, message = MISTAKES[case]
    with pytest.raises((ValueError, KeyError), match=message) as error:
        make()
    text = str(error.value)
    assert len(text.splitlines()) <= 15
    assert len(text) <= 1000


def test_features_only_with_a_file(tmp_path: Path) -> None:
    """Whose classifier has no place, which the report says."""
    source = build_model(SMALL, num_classes=3)
    save_weights(source, tmp_path / "w.safetensors", layout="timm")
    model = build_model(SMALL, heads=[], weights=tmp_path / "w.safetensors")
    assert model.loaded is not None
    assert set(model.loaded.dropped) == {"fc.weight", "fc.bias"}
    assert sorted(model.loaded.loaded) == sorted(model.state_dict())
    assert len(str(model.loaded).splitlines()) <= 15
    assert torch.equal(model.stem.conv.weight, source.stem.conv.weight)
