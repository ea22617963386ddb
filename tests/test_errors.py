"""What is offered for a wrong name: what is near, or what another library calls so, and nothing else."""

from __future__ import annotations

import pytest

from classy_vision.config import ConfigError, find_key
from classy_vision.data.config import DataConfig
from classy_vision.errors import find_nearest, unknown
from classy_vision.models import MODELS, build_model
from classy_vision.train.config import ScheduleConfig, TrainConfig, load_settings

MODEL_NAMES = [entry.name for entry in MODELS]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("resnt50", "resnet50"),
        ("resnet5O", "resnet50"),
        ("ResNet-50", "resnet50"),
        ("efficientnetb0", "efficientnet_b0"),
        ("tf_efficientnet_b0", "efficientnet_b0"),
        ("efficientnet-b3", "efficientnet_b3"),
        ("vit_b16", "vit_b_16"),
        ("regnety_400mf", "regnet_y_400mf"),
        ("regnet_y_4fg", "regnet_y_4gf"),
        ("wide_resnet50", "wide_resnet50_2"),
        ("r2plus1d", "r2plus1d_34"),
        ("convnext_tiny", None),
        ("efficientnetv2_s", "efficientnet_v2_s"),
        ("efficientnet_v3_s", None),
        ("swin_t", None),
        ("vgg16", None),
        ("mobilenetv3_large", "mobilenet_v3_large"),
        ("inception_v3", None),
        ("alexnet", None),
        ("maxvit_t", None),
        ("googlenet", None),
        ("slowfast", None),
        ("x3d_m", None),
        ("dinov2_vits14", None),
        ("clip", None),
    ],
)
def test_models_that_people_ask_for(given: str, meant: str | None) -> None:
    found = find_nearest(given, MODEL_NAMES)
    assert found == meant


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr", "learning_rate"),
        ("base_lr", "learning_rate"),
        ("bs", "batch_size"),
        ("batchsize", "batch_size"),
        ("wd", "weight_decay"),
        ("num_epochs", "epochs"),
        ("opt", "optimizer"),
        ("num_workers", "workers"),
        ("warmup", "warmup_epochs"),
        ("amp", "mixed_precision"),
        ("learnig_rate", "learning_rate"),
        ("batch-size", "batch_size"),
        ("callbacks", None),
        ("dataset", None),
        ("seed_everything", None),
    ],
)
def test_keys_of_other_libraries(given: str, meant: str | None) -> None:
    found = find_nearest(given, ScheduleConfig.model_fields)
    assert found == meant


def test_image_sizes() -> None:
    assert find_nearest("img_size", DataConfig.model_fields) == "image_size"


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("epochs", "schedule.epochs"),
        ("lr", "schedule.learning_rate"),
        ("batch_size", "schedule.batch_size"),
        ("img_size", "data.image_size"),
        ("augment", "data.augment"),
        ("banana", None),
    ],
)
def test_keys_in_the_wrong_section(key: str, path: str | None) -> None:
    assert find_key(TrainConfig, key) == path
    with pytest.raises(ConfigError) as error:
        load_settings("configs/digits.yaml", [f"{key}=3"])
    assert (f"unknown key {key!r}; did you mean {path!r}?" in str(error.value)) == (path is not None)


def test_pretrained_is_weights() -> None:
    with pytest.raises(ConfigError, match="unknown key 'pretrained'; did you mean 'weights'"):
        build_model("densenet121", pretrained=True)


def test_a_model_of_no_family() -> None:
    with pytest.raises(ConfigError) as error:
        build_model("convnext_tiny")
    said = str(error.value)
    assert "did you mean" not in said
    assert "timm's convnext_tiny has no network here (nor have others of its family, convnext)" in said
    assert "ClassyModel.from_model" in said
    with pytest.raises(ConfigError, match="it is not of these families: anynet, densenet, efficientnet, mlp"):
        build_model("xyzzy")


def test_classes_beside_heads_are_refused() -> None:
    head = {"name": "fully_connected", "unique_id": "a", "num_classes": 3, "fork_block": "trunk_output"}
    with pytest.raises(
        ConfigError, match="num_classes = 5 beside heads means nothing: write num_classes in the"
    ):
        build_model({"name": "resnet18", "num_classes": 5, "heads": [head]})


def test_a_long_name_is_cut() -> None:
    assert len(str(unknown("model", "a" * 5000, ["resnet18"]))) < 300
