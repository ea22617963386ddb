"""Weights in the layouts of other libraries, from files and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.models import ClassyModel, build_model
from classy_vision.trunk.loading import load_weights
from classy_vision.trunk.saving import save_weights, to_layout
from classy_vision.weights.state import StateError
from tests.golden.layouts import layouts
from tests.models.small import FAMILIES

PUBLISHED = layouts()


# What other libraries do not have: there is no squeeze-and-excitation in pycls and transformers, no
# pre-activated video network anywhere, and most have but one kind of block in an EfficientNet.
FOREIGN = {
    "mobile": {
        "activation": "silu",
        "stages": [[{"block": "mbconv", "channels": 8, "squeeze": 0.5, "repeats": 2}]],
    },
    "resnext": {"use_se": False},
    "resnext3d": {
        "skip_transformation_type": "postactivated_shortcut",
        "residual_transformation_type": "postactivated_bottleneck_transformation",
    },
}


def end_head(unique_id: str = "species", classes: int = 3) -> dict[str, Any]:
    head = {"name": "fully_connected", "unique_id": unique_id, "num_classes": classes}
    return {**head, "fork_block": "trunk_output"}


def small(family: str = "resnet", *heads: dict[str, Any], seed: int = 0) -> ClassyModel:
    torch.manual_seed(seed)
    config = {**FAMILIES[family][0], **FOREIGN.get(family, {})}
    model = build_model({**config, "heads": list(heads or [end_head()])})
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 1.0)
    return model


def equal(a: ClassyModel, b: ClassyModel) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


# These have no place for what the small one has: learned positions, a class token.
ELSEWHERE = {
    *(
        ("vision_transformer", f"transformers_{name}")
        for name in ("aimv2", "dinov3", "siglip", "videomae", "vjepa2")
    ),
    # The small one of clips has biases as VideoMAE's, and no class token.
    *(("clips", layout) for layout in ("torchvision", "pycls", "transformers", "google", "swag")),
    *(("clips", f"transformers_{name}") for name in ("aimv2", "dinov2", "dinov3", "siglip", "vjepa2")),
}
CASES = [
    (family, layout)
    for family in FAMILIES
    for layout in ("native", "classy_vision", *small(family).foreign_key_maps())
    if (family, layout) not in ELSEWHERE
]


@pytest.mark.parametrize(("family", "layout"), CASES)
def test_there_and_back(family: str, layout: str, tmp_path: Path) -> None:
    model, other = small(family), small(family, seed=1)
    assert not equal(model, other)
    save_weights(model, tmp_path / "weights.safetensors", layout=layout)
    report = load_weights(other, tmp_path / "weights.safetensors")
    assert equal(model, other)
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert report.dropped == {}
    assert report.kept == ()
    assert load_weights(other, tmp_path / "weights.safetensors", layout=layout).layout == layout


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_names(name: str) -> None:
    """Every key of a peer's model has a place here, and every one of ours comes from there."""
    layout, config, shapes = PUBLISHED[name].values()
    with torch.device("meta"):
        model = build_model(config, **({} if "heads" in config else {"num_classes": 1000}))
        theirs = {key: torch.empty(shape) for key, shape in shapes.items()}
    report = load_weights(model, theirs, layout=layout)
    assert sorted(report.loaded) == sorted(model.state_dict())
    assert load_weights(model, theirs).layout in (layout, "torchvision")  # they share names here and there
    back = to_layout(model, layout)
    assert {key: list(value.shape) for key, value in back.items()} == shapes


# -- heads


def as_timm(classes: int = 3, seed: int = 5) -> dict[str, Tensor]:
    return to_layout(small("resnet", end_head(classes=classes), seed=seed), "timm")


def test_another_number_of_classes() -> None:
    model = small("resnet", end_head(classes=4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(StateError, match=r"fc.weight: \(3, 128\) for \(4, 128\)") as error:
        load_weights(model, as_timm())
    assert "skip_heads" in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    report = load_weights(model, as_timm(), skip_heads=["species"])
    assert report.kept == ("species",)
    assert set(report.dropped.values()) == {"of a head that is skipped"}
    after = model.state_dict()
    heads = [key for key in after if key.startswith("heads.")]
    assert heads
    assert all(torch.equal(after[key], before[key]) for key in heads)
    assert not torch.equal(after["stem.conv.weight"], before["stem.conv.weight"])


def test_a_head_of_another_kind_takes_the_classifier() -> None:
    head = {"name": "fully_convolutional_linear", "activation_func": "identity"}
    model = small("resnet", {**end_head(), **head}).eval()
    source = small("resnet", seed=5).eval()
    load_weights(model, to_layout(source, "torchvision"))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(images), source(images))


def test_no_head() -> None:
    model = small("resnet")
    model.clear_heads()
    report = load_weights(model, as_timm())
    assert report.dropped == dict.fromkeys(
        ["fc.weight", "fc.bias"], "there is no head for it at the end of the trunk"
    )


def test_several_heads() -> None:
    early = {**end_head("early"), "fork_block": "block0"}
    model = small("resnet", end_head("a"), end_head("b"), early)
    with pytest.raises(StateError, match=r"several heads .* \(a, b\)"):
        load_weights(model, as_timm())
    with pytest.raises(StateError, match="early.*missing"):
        load_weights(model, as_timm(), head="b")
    with pytest.raises(ConfigError, match="unknown head 'c'.*a, b"):
        load_weights(model, as_timm(), head="c")
    with pytest.raises(ConfigError, match="skip_heads: unknown head 'c'"):
        load_weights(model, as_timm(), head="b", skip_heads=["c"])
    report = load_weights(model, as_timm(), head="b", skip_heads=["a", "early"])
    assert report.kept == ("a", "early")
    assert torch.equal(model.heads["trunk_output"]["b"].fc.weight, as_timm()["fc.weight"])

    with pytest.raises(ConfigError, match="no place for the heads early: .* skip_heads"):
        to_layout(model, "timm", skip_heads=["a"])
    with pytest.raises(ConfigError, match="one classifier"):
        to_layout(model, "timm", skip_heads=["early"])
    assert "fc.weight" in to_layout(model, "timm", skip_heads=["a", "early"])


# -- what is not the model's


def changed_keys(change: Any) -> dict[str, Tensor]:
    return {change(key): value for key, value in as_timm().items()}


WRONG = {
    "another prefix": (lambda: changed_keys(lambda k: f"net.encoder.{k}"), r"pass prefix='net.encoder.'"),
    "another architecture": (
        lambda: to_layout(small("efficientnet"), "timm"),
        "no key of the file is known|nearest to the",
    ),
    "a deeper network": (
        lambda: {**as_timm(), "layer1.7.conv1.weight": torch.zeros(1)},
        "nearest to 'layer1.7.conv1.weight' is 'layer1.0.conv1.weight'",
    ),
    "a mixture": (
        lambda: {**as_timm(), **to_layout(small(), "pycls")},
        "have no place in this ResNet",
    ),
    "a tensor is missing": (
        lambda: {k: v for k, v in as_timm().items() if k != "bn1.bias"},
        r"1 key \(stem.norm.bias\) missing",
    ),
    "one tensor is there twice": (
        lambda: {**as_timm(), "module.conv1.weight": torch.zeros(1)},
        "module.conv1.weight",
    ),
    "no checkpoint": (lambda: {"101": 3}, "101"),
    "an empty file": (lambda: {}, "0 keys"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_weights(case: str) -> None:
    make, message = WRONG[case]
    state, model = make(), small("resnet")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=message) as error:
        load_weights(model, state)
    assert len(str(error.value).splitlines()) <= 15
    assert len(str(error.value)) < 1000
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_prefix() -> None:
    state = {**changed_keys(lambda k: f"net.encoder.{k}"), "net.decoder.weight": torch.zeros(2)}
    report = load_weights(small("resnet"), state, prefix="net.encoder.")
    assert report.dropped == {"net.decoder.weight": "it does not begin with 'net.encoder.'"}
    with pytest.raises(ConfigError, match="no key of the file begins with it"):
        load_weights(small("resnet"), state, prefix="other.")


def test_no_such_file_or_layout(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such weights file"):
        load_weights(small("resnet"), tmp_path / "none.safetensors")
    with pytest.raises(ConfigError, match="unknown layout 'tim'.*timm"):
        load_weights(small("resnet"), as_timm(), layout="tim")
    with pytest.raises(ConfigError, match="unknown layout 'tim'.*timm"):
        save_weights(small("resnet"), tmp_path / "new.safetensors", layout="tim")
    assert list(tmp_path.iterdir()) == []


# -- files


@pytest.mark.parametrize("container", ["state_dict", "model", "model_state", "state_dict_ema"])
def test_containers_and_torch_files(container: str, tmp_path: Path) -> None:
    wrapped = {f"module.{key}": value for key, value in as_timm().items()}
    path = tmp_path / "weights.pth"
    torch.save({container: wrapped, "epoch": 3}, path)
    assert load_weights(model := small("resnet"), path).layout in ("timm", "torchvision")
    assert equal(model, small("resnet", seed=5))


def test_averaged_weights_are_preferred() -> None:
    averaged, last = as_timm(seed=5), as_timm(seed=6)
    load_weights(model := small("resnet"), {"state_dict": last, "state_dict_ema": averaged})
    assert equal(model, small("resnet", seed=5))


def test_a_model_without_memory_takes_the_tensors_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    tensors = {key: value for key, value in as_timm().items() if "num_batches" not in key}
    save_file(tensors, path)
    with torch.device("meta"):
        model = build_model({**FAMILIES["resnet"][0], "heads": [end_head()]})
    load_weights(model, path)
    assert not any(value.is_meta for value in model.state_dict().values())
    assert all(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(model.state_dict(), small("resnet", seed=5).state_dict())

    model.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()  # which the file must not see
    load_weights(again := small("resnet"), path)
    assert equal(again, small("resnet", seed=5))


def test_a_model_shares_no_memory_with_a_state_dict() -> None:
    config = {**FAMILIES["resnet"][0], "heads": []}
    teacher = build_model(config)
    student = build_model(config, weights=teacher.state_dict())
    theirs = {value.data_ptr() for value in teacher.state_dict().values()}
    assert theirs.isdisjoint(value.data_ptr() for value in student.state_dict().values())


def test_half_precision_files_keep_the_model_s_type() -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in as_timm().items()}
    with torch.device("meta"):
        empty = build_model({**FAMILIES["resnet"][0], "heads": [end_head()]})
    for model in (small("resnet"), empty):
        load_weights(model, half)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        torch.testing.assert_close(model.state_dict(), small("resnet", seed=5).state_dict(), atol=1e-3, rtol=0)


def test_the_report_is_short() -> None:
    state = to_layout(small("resnet", seed=5), "pycls")
    state["head.fc.weight"] = torch.zeros(9, 9)
    text = str(load_weights(small("resnet"), state, skip_heads=True))
    assert text.splitlines() == [
        "a state dict: 78 tensors loaded from the pycls layout",
        "  changed: 1 tensor (stem.conv.weight): channels reversed, BGR to RGB",
        "  left out: 2 tensors (heads.trunk_output.species.fc.weight, "
        "heads.trunk_output.species.fc.bias): of a head that is skipped",
        "  not in the file: 1 head (species)",
    ]


# -- other inputs


@pytest.mark.parametrize("how", ["mean", "repeat"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_input_channels(channels: int, how: Any) -> None:
    source, state = small("resnet", seed=5).eval(), as_timm()
    torch.manual_seed(0)
    model = build_model({**FAMILIES["resnet"][0], "heads": [end_head()]}, in_channels=channels).eval()
    with pytest.raises(StateError, match="stem.conv.weight"):
        load_weights(model, state)
    report = load_weights(model, state, channels=how)
    assert report.changed == {"stem.conv.weight": f"3 input channels to {channels}, {how}"}
    grey = torch.rand(2, 1, 32, 32)
    if how == "mean" or channels == 3:
        torch.testing.assert_close(
            model(grey.expand(-1, channels, -1, -1)), source(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-3
        )


def test_a_new_first_convolution(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(small("resnet", seed=5), path, layout="torchvision")
    weights = {"source": str(path), "channels": "new"}
    model = build_model({**FAMILIES["resnet"][0], "heads": [end_head()], "in_channels": 5, "weights": weights})
    assert model.loaded is not None
    assert model.loaded.changed["stem.conv.weight"] == "new: the file's is for 3 input channels"
    first = model.state_dict()["stem.conv.weight"]
    assert first.std() == pytest.approx((2 / (first.shape[0] * 49)) ** 0.5, rel=0.15)


def test_build_model_with_weights(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(small("resnet", seed=5), path, layout="torchvision")
    config = {**FAMILIES["resnet"][0], "weights": str(path)}
    same = build_model({**config, "heads": [end_head()]})
    assert equal(same, small("resnet", seed=5))
    assert same.loaded is not None
    assert same.loaded.kept == ()

    early = {**end_head("early"), "fork_block": "block0"}
    torch.manual_seed(3)
    model = build_model({**config, "heads": [end_head(classes=7), early]})
    assert model.loaded is not None
    assert model.loaded.kept == ("early", "species")
    assert not any(value.is_meta for value in model.state_dict().values())
    assert all(p.requires_grad for p in model.parameters())
    assert sorted(model(torch.rand(2, 3, 32, 32))) == ["early", "species"]
    assert torch.equal(model.stem.conv.weight, small("resnet", seed=5).stem.conv.weight)

    grey = build_model(
        {**config, "in_channels": 1, "num_classes": 3, "weights": {"source": path, "channels": "mean"}}
    )
    assert grey.stem.conv.in_channels == 1
    with pytest.raises(ConfigError, match="no such weights file"):
        build_model({**config, "weights": str(tmp_path / "none.pth")})
    with pytest.raises(ConfigError, match="weights = 3"):
        build_model({**config, "weights": 3})


# -- vision transformers for other inputs

VIT = {
    "name": "vision_transformer",
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 1,
    "num_heads": 2,
    "hidden_dim": 16,
    "mlp_dim": 16,
}


def vit_file(path: Path, **options: Any) -> ClassyModel:
    torch.manual_seed(5)
    model = build_model(VIT, **options).eval()
    for value in model.state_dict().values():
        value.normal_()
    save_weights(model, path, layout="timm")
    return model


@pytest.mark.parametrize("size", [16, 24])
def test_enlarged_images_with_enlarged_patches_give_the_same_tokens(size: int, tmp_path: Path) -> None:
    source = vit_file(tmp_path / "w.safetensors")
    sizes = {"patch_size": size, "image_size": 4 * size}
    with pytest.raises(StateError, match="patches='bicubic_antialias' resizes the patch embedding"):
        build_model(VIT, **sizes, weights=tmp_path / "w.safetensors")
    weights = {"source": tmp_path / "w.safetensors", "patches": "bilinear"}
    model = build_model(VIT, **sizes, weights=weights).eval()
    assert model.loaded is not None
    assert model.loaded.changed == {"stem.proj.weight": f"patches of 8x8 pixels to {size}x{size}, bilinear"}
    patch = torch.rand(1, 3, 8, 8)
    enlarged = torch.nn.functional.interpolate(patch, (size, size), mode="bilinear")
    with torch.no_grad():
        torch.testing.assert_close(model(enlarged.tile(4, 4)), source(patch.tile(4, 4)), rtol=1e-3, atol=1e-4)


def test_patches_and_channels_and_positions_at_once(tmp_path: Path) -> None:
    vit_file(tmp_path / "w.safetensors")
    weights = {"source": tmp_path / "w.safetensors", "patches": "bicubic", "channels": "mean"}
    report = build_model(VIT, in_channels=1, patch_size=16, image_size=96, weights=weights).loaded
    assert report is not None
    assert report.changed == {
        "stem.proj.weight": "patches of 8x8 pixels to 16x16, bicubic, 3 input channels to 1, mean",
        "stem.positions": "resized from (1, 17, 16) to (1, 37, 16)",
    }


def test_class_tokens_are_left_out_or_made_only_when_asked(tmp_path: Path) -> None:
    source = vit_file(tmp_path / "w.safetensors")
    config = {**VIT, "classifier": "gap", "image_size": 64}
    for layout in ("native", "timm"):
        save_weights(source, tmp_path / "w.safetensors", layout=layout)
        with pytest.raises(StateError, match="17 position.*class_token='drop' leaves the class token out"):
            build_model(config, weights=tmp_path / "w.safetensors")
    report = build_model(config, weights={"source": tmp_path / "w.safetensors", "class_token": "drop"}).loaded
    assert report is not None
    assert report.dropped == {"stem.class_token": "the model has no class token"}
    positions = "without that of the class token, resized from (1, 16, 16) to (1, 64, 16)"
    assert report.changed == {"stem.positions": positions}
    assert "left out: 1 tensor (stem.class_token): the model has no class token" in str(report)

    vit_file(tmp_path / "gap.safetensors", classifier="gap")
    with pytest.raises(StateError, match="class_token='new' makes a class token"):
        build_model(VIT, weights=tmp_path / "gap.safetensors")
    model = build_model(VIT, weights={"source": tmp_path / "gap.safetensors", "class_token": "new"})
    assert model.loaded is not None
    assert model.loaded.changed["stem.class_token"] == "new: the file has none"
    assert not model.stem.class_token.any()
    assert not model.stem.positions[:, 0].any()
    model(torch.rand(2, 3, 32, 32)).sum().backward()


@pytest.mark.parametrize("argument", ["channels", "patches", "class_token"])
def test_unknown_ways(argument: str) -> None:
    with pytest.raises(ConfigError, match=f"{argument}: unknown way 'nearest'"):
        load_weights(small("resnet"), as_timm(), **{argument: "nearest"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"x": 1}, "weights: unknown key 'x'"),
        ({"layout": ["timm"]}, r"weights: layout = \('timm',\)"),
        ({"prefix": 3}, "weights: prefix = 3"),
    ],
)
def test_options_of_weights_in_a_config(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_model({"name": "resnet18", "weights": {"source": {}, **options}})
