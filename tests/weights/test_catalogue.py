"""Published weights by name."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from classy_vision.config import ConfigError
from classy_vision.models import build_model
from classy_vision.resolve import Kind, resolve
from classy_vision.weights.catalogue import is_published, labels, list_left_out, names, published
from classy_vision.weights.licenses import LicenseWarning

# One name for each network: others are of the same.
NETWORKS = {repr(sorted(published(name).config.items())): name for name in names()}
FEW = sorted(NETWORKS.values())[::12]


def test_there_are_many() -> None:
    sources = [name.partition("/")[0] for name in names()]
    assert sources.count("timm") > 450
    assert sources.count("torchvision") > 70


def check(name: str) -> None:
    entry = published(name)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", LicenseWarning)
        model = build_model(name)
    assert sum(p.numel() for p in model.parameters()) == entry.params
    assert len(entry.preprocessing.mean) == len(entry.preprocessing.std) == 3
    assert entry.preprocessing.interpolation in ("bilinear", "bicubic")
    if entry.labels:
        (head,) = (head for heads in model.get_heads().values() for head in heads)
        assert head.num_classes == len(labels(entry.labels))


@pytest.mark.parametrize("name", FEW)
def test_a_network(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS.values() if name not in FEW])
def test_every_network(name: str) -> None:
    check(name)


def test_what_the_numbers_need() -> None:
    assert published("timm/tf_efficientnet_b0.ns_jft_in1k").config["padding"] == "same"
    assert published("torchvision/efficientnet_b0.IMAGENET1K_V1").config["bn_epsilon"] == 1e-5
    assert published("torchvision/regnet_y_8gf.IMAGENET1K_V1").config["width_rounding"] == "torchvision"
    clip = published("timm/vit_base_patch32_clip_quickgelu_224.openai").config
    assert (clip["pre_norm"], clip["activation"], clip["layer_norm_eps"]) == (True, "quick_gelu", 1e-5)
    assert published("timm/vit_small_patch14_reg4_dinov2.lvd142m").config["num_register_tokens"] == 4


def test_what_goes_with_them() -> None:
    entry = published("torchvision/resnet50.IMAGENET1K_V2")
    assert (entry.top1, entry.license, entry.place) == (80.858, "bsd-3-clause", "resnet50-11ad3fa6.pth")
    assert (entry.preprocessing.resize, entry.preprocessing.image_size) == (232, 224)
    assert labels("imagenet_1k")[:2] == ("tench", "goldfish")
    assert labels("kinetics_400")[0] == "abseiling"
    assert published("timm/resnet50.tv_in1k").top1 is not None
    assert published("timm/resnet50.a1_in1k").top1 == 80.382


@pytest.mark.parametrize(
    ("tag", "outputs"),
    [
        ("vit_base_patch16_224.dino", "features"),
        ("vit_base_patch16_clip_224.openai", "embeddings"),
        ("vit_pe_core_base_patch16_224.fb", "embeddings"),
        ("vit_base_patch16_clip_224.openai_ft_in12k", "classes"),
        ("vit_base_patch16_224.bamboo", "classes"),
    ],
)
def test_what_comes_out(tag: str, outputs: str) -> None:
    assert published(f"timm/{tag}").outputs == outputs


def test_what_comes_out_of_all() -> None:
    for entry in map(published, names()):
        classes = "num_classes" in entry.config or entry.config.get("heads")
        assert bool(classes) is (entry.outputs != "features"), entry.name
        assert entry.outputs == "classes" or not entry.labels, entry.name


def test_accuracies_are_stated() -> None:
    """Of classifiers of ImageNet; timm states some for larger images alone."""
    classifiers = [published(n) for n in names() if published(n).labels == "imagenet_1k"]
    missing = [entry.name for entry in classifiers if entry.top1 is None]
    assert len(missing) <= len(classifiers) / 4, missing
    assert all(1 < top1 < 100 for n in names() if (top1 := published(n).top1) is not None)


def test_names() -> None:
    assert is_published("timm/anything")
    assert not is_published("resnet50")
    assert not is_published("runs/digits")
    with pytest.raises(ConfigError, match="did you mean 'timm/resnet50.a1_in1k'"):
        published("timm/resnet50.a1_in1")
    with pytest.raises(ConfigError, match="unknown published weights 'timm/'"):
        build_model("timm/")


def test_names_of_repositories() -> None:
    name = "hf-hub:facebook/vjepa2-vitl-fpc16-256-ssv2"
    entry = published(name)
    assert (entry.name, entry.place, entry.license) == (name, name.removeprefix("hf-hub:"), "mit")
    assert published(f"{name}@main") == entry
    assert resolve(f"{name}@main").kind is Kind.PUBLISHED
    assert not is_published("hf-hub:facebook/vjepa2")
    assert resolve("hf-hub:facebook/vjepa2").kind is Kind.HUB
    with torch.device("meta"):
        model = build_model(name, num_classes=7)
    (head,) = model.get_heads()["trunk_output"]
    assert (head.num_classes, model.input_shape) == (7, (3, 16, 256, 256))


def test_the_options_of_published_networks_can_be_changed() -> None:
    with torch.device("meta"):
        model = build_model("timm/tf_efficientnet_b0.ns_jft_in1k", num_classes=7, in_channels=1)
    (head,) = model.get_heads()["trunk_output"]
    assert head.num_classes == 7
    assert model.stem.conv.in_channels == 1
    assert model.config.padding == "same"


def test_weights_of_another_network() -> None:
    with pytest.raises(ConfigError, match="are of 'resnet50', not of 'resnet18': write name: resnet50"):
        build_model("resnet18", weights="timm/resnet50.a1_in1k")
    with pytest.raises(ConfigError, match="which 'resnet18' is not"):
        build_model("resnet18", weights=True)


# -- names that are not here


@pytest.mark.parametrize(
    ("name", "said"),
    [
        # another tag of the same architecture
        ("timm/resnet50.a1_in1", "did you mean 'timm/resnet50.a1_in1k'"),
        ("timm/resnet5.a1_in1k", "did you mean 'timm/resnet50.a1_in1k'"),
        (
            "timm/resnet50",
            "there are 'timm/resnet50.a1_in1k', .* 15 more: classy weights list",
        ),
        ("timm/vit_small_patch16_dinov3", "did you mean 'timm/vit_small_patch16_dinov3.lvd1689m'"),
        ("torchvision/resnet50", "IMAGENET1K_V2', 'torchvision/resnet50.IMAGENET1K_V1'$"),
        # there, and not here
        ("timm/efficientnet_b1_pruned.in1k", "has no network here .pruned.*near it is 'timm/efficientnet_b1."),
        ("timm/mobilenetv4_conv_blur_medium.e500_r224_in1k", "near it is 'timm/mobilenetv4_conv_medium."),
        ("timm/convnext_tiny.fb_in1k", "timm's convnext_tiny .*family, convnext.; of its size is 'timm/"),
        ("torchvision/swin_t.IMAGENET1K_V1", "torchvision's swin_t has no network here"),
        # nothing
        ("timm/xxxxxx", "no name is near"),
    ],
)
def test_published_names(name: str, said: str) -> None:
    for find in (published, resolve, build_model):
        with pytest.raises(ConfigError, match=said):
            find(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "mobilenetv3_large_100",
            "here it is 'timm/mobilenetv3_large_100.*'mobilenet_v3_large'$",
        ),
        ("resnet50.a1_in1k", "did you mean 'timm/resnet50.a1_in1k'"),
        ("vit_base_patch16_224", "here it is 'timm/vit_base_patch16_224."),
        ("convnext_tiny", "timm's convnext_tiny has no network here .*from_model"),
        ("swin_t", "torchvision's swin_t has no network here"),
        ("resnet5", "did you mean 'resnet50'"),
    ],
)
def test_names_without_their_library(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        resolve(name)
    for config in (name, {"name": name}):
        with pytest.raises(ConfigError, match=said):
            build_model(config)


def test_what_is_offered_is_of_the_size() -> None:
    with pytest.raises(ConfigError) as raised:
        published("timm/swin_tiny_patch4_window7_224.ms_in1k")
    (name,) = (name for name in names() if f"of its size is {name!r}" in str(raised.value))
    assert 21e6 < published(name).params < 36e6
    assert published(name).license in ("apache-2.0", "bsd-3-clause", "mit")


def test_what_is_left_out() -> None:
    left_out = list(list_left_out())
    here = {name.partition(".")[0] for name in names()}
    assert len(left_out) > 700
    assert not here & {f"{entry.library}/{entry.name}" for entry in left_out}
    assert all(entry.params > 1000 for entry in left_out)
    reasons = {entry.name: entry.reason for entry in left_out}
    assert reasons["densenetblur121d"] == "a stem of three convolutions, and blurred pooling"
    assert reasons["convnext_tiny"] is None


def test_a_file_of_that_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_published("timm/net.yaml")
    Path("timm").mkdir()
    Path("timm/net.yaml").write_text("name: resnet18\nnum_classes: 3\n")
    assert not is_published("timm/net.yaml")
    model = build_model("timm/net.yaml").eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
