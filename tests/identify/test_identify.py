"""Which network a file's tensors are of, from their names and shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from classy_vision.config import ConfigError, UnknownNameError
from classy_vision.heads import FullyConnectedHead
from classy_vision.identify.identify import examine, identify
from classy_vision.models import ClassyModel, build_model
from classy_vision.trunk.saving import to_layout
from classy_vision.weights.catalogue import published
from tests.golden.layouts import layouts
from tests.models.small import FAMILIES
from tests.trunk.test_loading import FOREIGN, end_head

PUBLISHED = layouts()
QUICK = [
    *("resnet18", "hf resnet18", "efficientnet-b1", "regnet_y_800mf", "timm regnetz_005", "mc3_18"),
    *("r2plus1d_18", "ptv i3d_r50"),
]
# No tensor shows the strides of "mobile", whose stages are its own.
SMALL = [
    pytest.param(name, marks=[] if name in ("densenet", "efficientnet", "resnext") else pytest.mark.slow)
    for name in FAMILIES
    if name not in ("mlp", "mobile", "clips")
]


def outline(config: Any, **more: Any) -> ClassyModel:
    with torch.device("meta"):
        return build_model(config, **more)


def shapes(model: ClassyModel) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def check_published(name: str) -> None:
    config: dict[str, Any]
    layout, config, theirs = (PUBLISHED[name][key] for key in ("layout", "config", "shapes"))
    found = examine(theirs)
    assert layout in found.layouts
    assert found.config["name"] == config["name"]
    wanted = outline(config if "heads" in config else dict(config, num_classes=1000))
    assert sorted(shapes(outline(found.config)).values()) == sorted(shapes(wanted).values())


@pytest.mark.parametrize("name", QUICK)
def test_published_names(name: str) -> None:
    check_published(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in QUICK])
def test_all_published_names(name: str) -> None:
    check_published(name)


@pytest.mark.parametrize("family", SMALL)
def test_small_networks_in_every_layout(family: str) -> None:
    more: Any = FOREIGN.get(family, {})
    model = outline({**FAMILIES[family][0], **more, "heads": [end_head()]})
    for layout in ("native", "classy_vision", *model.foreign_key_maps()):
        own_classifier = layout in FullyConnectedHead.published  # which no file shows the width of
        try:
            state = to_layout(model, layout, skip_heads=own_classifier)
        except UnknownNameError:  # as for positions, in a layout for networks that have none
            assert family == "vision_transformer", layout
            continue
        found = examine(state)
        assert layout in found.layouts
        built = outline(found.config)
        trunk = {key: shape for key, shape in shapes(built).items() if not key.startswith("heads.")}
        assert trunk == {key: shape for key, shape in shapes(model).items() if not key.startswith("heads.")}
        heads = [head for heads in built.get_heads().values() for head in heads]
        assert [head.num_classes for head in heads] == ([] if own_classifier else [3])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"name": "resnet50"}, {"name": "resnet50"}),
        ({"name": "resnet18", "in_channels": 1}, {"name": "resnet18", "in_channels": 1}),
        ({"name": "resnet18", "final_bn_relu": False}, {"name": "resnet18", "final_bn_relu": False}),
        ({"name": "resnext50_32x4d", "use_se": True}, {"name": "resnext50_32x4d", "use_se": True}),
        ({"name": "densenet121", "small_input": True}, {"name": "densenet121", "small_input": True}),
        ({"name": "efficientnet_b2", "heads": []}, {"name": "efficientnet_b2", "heads": []}),
        ({"name": "mixnet_s", "heads": []}, {"name": "mixnet_s", "heads": []}),
        ({"name": "mobilenet_v2", "heads": []}, {"name": "mobilenet_v2", "heads": []}),
        ({"name": "mobilenet_v4_conv_small", "heads": []}, {"name": "mobilenet_v4_conv_small", "heads": []}),
        ({"name": "regnet_x_12gf"}, {"name": "regnet_x_12gf"}),
        ({"name": "vit_b_32", "image_size": 384}, {"name": "vit_b_32", "image_size": 384}),
        ({"name": "vit_h_14"}, {"name": "vit_h_14"}),  # 80 channels per head, which no tensor shows
        ({"name": "r2plus1d_34"}, {"name": "r2plus1d_34"}),
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_presets_and_their_options(config: dict[str, Any], expected: dict[str, Any]) -> None:
    found = examine(shapes(outline(config)))
    assert found.config == expected
    assert found.is_preset == (set(expected) <= {"name", "heads"})


@pytest.mark.parametrize(
    "name",
    [
        "timm/vit_so150m_patch16_reg4_gap_256.sbb_e250_in12k_ft_in1k",
        "timm/deit_tiny_distilled_patch16_224.fb_in1k",
        "timm/vit_dwee_patch16_reg1_gap_256.sbb_in1k",
        "timm/resnet26.bt_in1k",
        "timm/vit_small_patch14_reg4_dinov2.lvd142m",
    ],
)
def test_networks_that_are_no_presets(name: str) -> None:
    model = outline(dict(published(name).config))
    found = identify(to_layout(model, "timm"))
    assert shapes(outline(found)) == shapes(model)
    if "num_heads" in found:
        assert found["num_heads"] == published(name).config["num_heads"]


def test_several_heads() -> None:
    heads = [
        {"name": "fully_connected", "num_classes": 3, "unique_id": "a", "fork_block": "block1"},
        {"name": "vision_transformer_head", "num_classes": 4, "unique_id": "b", "fork_block": "trunk_output"},
        {"name": "fully_convolutional_linear", "num_classes": 5, "unique_id": "c", "fork_block": "block0"},
    ]
    model = outline("resnet18", heads=heads)
    found = identify({"classy_state_dict": {"base_model": model.get_classy_state()}})
    assert shapes(outline(found)) == shapes(model)
    assert {head["unique_id"] for head in found["heads"]} == {"a", "b", "c"}


def test_what_fits_nothing() -> None:
    state = shapes(outline("resnet18"))
    with pytest.raises(ConfigError, match="no layout knows any of their names"):
        identify({"a.weight": (3, 4)})
    with pytest.raises(ConfigError, match="nearest is resnet18 in the native layout, but 1 tensor .* differ"):
        identify({**state, "blocks.block1-0.residual.a.conv.weight": (128, 63, 3, 3)})
    theirs = to_layout(outline("resnet18"), "timm")
    with pytest.raises(ConfigError, match="knows the names of 120 of 121"):
        identify({**theirs, "extra.weight": torch.zeros(1)})
    narrow = shapes(outline("resnet18", init_planes=48))
    without_statistics = {key: shape for key, shape in narrow.items() if "running" not in key}
    with pytest.raises(ConfigError, match="nearest is"):  # 32 groups of norms do not divide 48 channels
        identify(without_statistics)
    with pytest.raises(ConfigError, match="it is empty"):
        identify({})
    with pytest.raises(ConfigError, match=r"not a state dict of tensors: 1 entry \(epoch\)"):
        identify({"epoch": 3})


def test_shapes_that_torch_cannot_have() -> None:
    with pytest.raises(ConfigError, match=r"not a state dict of tensors: 1 entry \(layer1.0.conv1.weight\)"):
        identify({"layer1.0.conv1.weight": (0, 2**40, 2**40)})


def test_state_dicts_are_bounded() -> None:
    with pytest.raises(ConfigError, match="20,000 keys in a state dict"):
        identify({f"blocks.{i}.weight": (1,) for i in range(20_000)})
    with pytest.raises(ConfigError, match="a key of 5,000 characters"):
        identify({"k" * 5000: (1,)})


@pytest.mark.parametrize("number", [10**11, 5000])
def test_networks_of_more_blocks_than_tensors_are_not_built(number: int) -> None:
    known = shapes(outline({"name": "resnet", "num_blocks": [1], "init_planes": 8}))
    last = {key.replace("block0-0", f"block0-{number}"): shape for key, shape in known.items()}
    with pytest.raises(ConfigError, match="no model of"):
        identify({**known, **last})
