"""Settings, data and model must agree before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classy_vision.config import ConfigError
from classy_vision.data.config import ClipConfig
from classy_vision.train.config import TrainConfig
from classy_vision.train.job import prepare
from tests.train.command import SMALL_CLIP_TRUNK, SMALL_TRUNK, clips_job, head, job


def settings(table: Path, *heads: dict[str, Any], **sections: Any) -> TrainConfig:
    data = {"source": "table", "file": str(table), **sections.pop("data", {})}
    return TrainConfig.parse(job(data, *heads, **sections))


def test_what_was_left_out_comes_from_the_data(table: Path) -> None:
    tasks = {"colour": {}, "t": {"target": "tags", "kind": "multilabel"}, "light": {"kind": "regression"}}
    ready = prepare(settings(table, head("colour"), head("t", "block1"), head("light"), tasks=tasks))
    assert [h["num_classes"] for h in ready.settings.model["heads"]] == [3, 3, 1]
    assert ready.settings.model["in_channels"] == 3
    assert ready.tasks["colour"].classes == ("blue", "lime", "red")
    assert ready.tasks["t"].classes == ("cold", "dull", "warm")
    assert ready.settings.data.mean == (0.485, 0.456, 0.406)
    assert ready.targets["colour"][:3].tolist() == [-100, 1, 0]
    assert prepare(ready.settings).settings == ready.settings
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("heads", "sections", "message"),
    [
        (
            [head("colour", num_classes=4)],
            {},
            "= 4, but column 'colour' has 3: 'blue', 'lime', 'red'",
        ),
        ([head("color")], {}, "unknown column 'color'; did you mean 'colour'"),
        ([head("colour")], {"tasks": {"colour": {"target": "lights"}}}, "did you mean 'light'"),
        ([head("colour")], {"tasks": {"color": {}}}, "tasks: unknown head 'color'; did you mean 'colour'"),
        ([head("colour"), head("light")], {"tasks": {"colour": {}}}, "head 'light' has no task"),
        ([head("colour")], {"tasks": {"colour": {"kind": "regression"}}}, "'lime' is not a finite number"),
        ([head("colour")], {"tasks": {"colour": {"classes": ["red", "blue"]}}}, "unknown class 'lime'"),
        ([head("colour", "block9")], {}, "unknown block 'block9'"),
        ([{**head("colour"), "name": "identity"}], {}, "its task needs 3 numbers"),
        (
            [head("colour")],
            {"schedule": {"batch_size": 64}},
            "than the 18 training images; 4 would do",
        ),
        ([head("colour")], {"schedule": {"mixed_precision": "fp16"}}, "'fp16' needs a GPU"),
        ([], {}, "at least one head is needed"),
        ([head("colour"), head("colour", "block1")], {}, "two heads have the id 'colour'"),
        ([{"name": "fully_connected"}], {}, "with a unique_id"),
    ],
)
def test_what_does_not_agree_is_named(
    heads: list[dict[str, Any]],
    sections: dict[str, Any],
    message: str,
    table: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        prepare(settings(table, *heads, **sections))


def edit(table: Path, column: int, split: str, value: str) -> None:
    lines = [line.split(",") for line in table.read_text().splitlines()]
    for cells in lines[1:]:
        if cells[1] == split:
            cells[column] = value
    table.write_text("\n".join(map(",".join, lines)))


@pytest.mark.parametrize(
    ("split", "value", "message"),
    [
        ("train", "", "column 'colour' has 0 labels in the training split"),
        ("val", "", "column 'colour' has 0 labels in the validation split"),
        ("train", "red", "has only one class in training: 'red'"),
        ("val", "pink", "column 'colour': unknown class 'pink'.*classes are those of the training split"),
    ],
)
def test_labels_that_cannot_be_learned(split: str, value: str, message: str, table: Path) -> None:
    edit(table, 2, split, value)
    with pytest.raises(ConfigError, match=message):
        prepare(settings(table, head("colour")))


def test_a_model_that_does_not_take_the_images(table: Path) -> None:
    config = settings(table, head("colour"))
    vanilla = {**config.model, "stem_type": "simple_stem_in", "strides": [2, 2]}
    assert prepare(config.model_copy(update={"model": vanilla}))
    with pytest.raises(ConfigError, match="0.png: the image has 3 channels, but the model takes 4"):
        prepare(config.model_copy(update={"model": {**config.model, "in_channels": 4}}))


PUBLISHED = "timm/resnet50.a1_in1k"


def test_published_weights_bring_their_preprocessing(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classy_vision.train.job.find_file", lambda name: Path("there"))
    config = settings(table, head("colour"), weights=PUBLISHED, schedule={"batch_size": 2})
    bare = config.model_copy(
        update={
            "model": {"name": "resnet50", "heads": config.model["heads"]},
            "data": type(config.data)(source="table", file=str(table), image_size=32, std=(0.2, 0.2, 0.2)),
        }
    )
    ready = prepare(bare)
    data = ready.settings.data
    assert (data.image_size, data.resize, data.interpolation) == (32, 33, "bicubic")
    assert (data.eval_transform, data.mean, data.std) == ("torchvision", (0.485, 0.456, 0.406), (0.2, 0.2, 0.2))
    assert ready.records.note == (
        f"preprocessing of {PUBLISHED}: resize = 33, interpolation = bicubic, eval_transform = torchvision, "
        f"mean = [0.485, 0.456, 0.406]"
    )
    again = prepare(ready.settings)  # as in resuming
    assert again.settings == ready.settings
    assert again.records.note == ""


@pytest.mark.filterwarnings("ignore:the weights:classy_vision.weights.licenses.LicenseWarning")
def test_names_of_video_transformers_bring_their_frames(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classy_vision.train.job.find_file", lambda name: Path("there"))
    name = "hf-hub:MCG-NJU/videomae-small-finetuned-kinetics"
    given = clips_job(videos, schedule={"batch_size": 2})
    del given["data"]["clip"], given["data"]["image_size"]
    given |= {"model": {"name": name, "heads": given["model"]["heads"]}, "weights": name}
    ready = prepare(TrainConfig.parse(given))
    data = ready.settings.data
    assert (data.clip, data.image_size) == (ClipConfig(frames=16, stride=4), 224)
    assert ready.settings.model["name"] == "videomae_small"
    assert ready.records.note.endswith("clip = {'frames': 16, 'stride': 4}")
    assert prepare(ready.settings).settings == ready.settings


def test_channels_come_from_arrays(tmp_path: Path) -> None:
    for name in ("train/a/1.npy", "train/b/2.npy", "val/a/3.npy", "val/b/4.npy"):
        (tmp_path / name).parent.mkdir(parents=True)
        np.save(tmp_path / name, np.zeros((8, 8, 6), np.uint8))
    data = {"source": "folder", "root": str(tmp_path), "mean": [0.1] * 6}
    wanted = TrainConfig.parse(job(data, head("label"), schedule={"batch_size": 2}))
    ready = prepare(wanted)
    assert (ready.channels, ready.settings.data.mean, ready.settings.data.std) == (6, (0.1,) * 6, (0.5,) * 6)
    with pytest.raises(ConfigError, match="has 6 channels, but the model takes 3"):
        prepare(
            wanted.model_copy(
                update={
                    "model": {**wanted.model, "in_channels": 3},
                    "data": ready.settings.data.model_copy(update={"mean": None, "std": None}),
                }
            )
        )


def test_paths_are_written_whole(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)
    with pytest.raises(ConfigError, match="no such weights file: 'trunk.pt'"):
        prepare(settings(Path("table.csv"), head("colour"), weights="trunk.pt"))
    Path("trunk.pt").touch()
    ready = prepare(settings(Path("table.csv"), head("colour"), weights="trunk.pt"))
    assert ready.settings.data.file == str(table)  # type: ignore[union-attr]
    assert ready.settings.weights == str(table.parent / "trunk.pt")


def test_a_model_of_vectors_does_not_train_on_images(table: Path) -> None:
    wanted = settings(table, head("colour"))
    with pytest.raises(ConfigError, match="model.name = 'mlp' does not take single images"):
        prepare(wanted.model_copy(update={"model": {**wanted.model, "name": "mlp"}}))


def test_a_model_of_clips_takes_images_as_clips_of_one_frame(table: Path) -> None:
    wanted = settings(table, head("colour"))
    model = {**SMALL_CLIP_TRUNK, "input_planes": 3, "heads": wanted.model["heads"]}
    assert prepare(wanted.model_copy(update={"model": model})).channels == 3


def clips(videos: Path, **sections: Any) -> TrainConfig:
    return TrainConfig.parse(clips_job(videos, **sections))


def test_clips_are_longer_and_larger_than_usual_where_the_model_takes_them(videos: Path) -> None:
    ready = prepare(clips(videos, data={"clip": {"frames": 11}, "eval_size": 40}))
    assert ready.settings.data.mean == (0.45, 0.45, 0.45)
    assert ready.tasks["direction"].classes == ("down", "left", "right", "up")


@pytest.mark.parametrize(
    ("heads", "data", "message"),
    [
        # A window of one position in training, over which clips and crops of evaluation may be longer …
        ([{"pool_size": [4, 6, 6]}], {}, None),
        ([{"pool_size": [4, 6, 6]}], {"eval_size": 32}, None),
        # … and one that leaves several positions in training.
        ([{"pool_size": [4, 3, 3]}], {}, r"gives \(64,\) for clips of 8 frames of 24x24 pixels"),
        ([{"pool_size": [9, 6, 6]}], {}, "does not take clips of 8 frames of 24x24 pixels: "),
    ],
)
def test_a_window_must_fit_the_clips(
    heads: list[dict[str, Any]], data: dict[str, Any], message: str | None, videos: Path
) -> None:
    config = clips_job(videos, data=data)
    config["model"]["heads"][0] |= {"name": "fully_convolutional_linear", **heads[0]}
    if message is None:
        assert prepare(TrainConfig.parse(config))
        return
    with pytest.raises(ConfigError, match=message):
        prepare(TrainConfig.parse(config))


def test_a_model_of_images_does_not_take_clips(videos: Path) -> None:
    config = {**clips_job(videos), "model": {**SMALL_TRUNK, "heads": [head("direction")]}}
    with pytest.raises(
        ConfigError, match="does not take clips of 8 frames of 24x24 pixels: AnyNet takes images"
    ):
        prepare(TrainConfig.parse(config))


def test_clips_need_a_package(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classy_vision.train.job.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"data.clip needs: pip install 'classy-vision-models\[video\]'"):
        prepare(clips(videos))


def test_a_batch_of_one_needs_more_than_one_pixel_to_normalise(table: Path) -> None:
    config = settings(table, head("colour"), data={"image_size": 4}, schedule={"batch_size": 1})
    with pytest.raises(
        ConfigError, match="does not train on batches of 1, images of 4x4 pixels: Expected more"
    ):
        prepare(config)
    frozen = {"batch_size": 1, "freeze_trunk": True}  # whose batch norms do not look at the batch
    assert prepare(settings(table, head("colour"), data={"image_size": 4}, schedule=frozen))


def test_paths_may_start_at_home(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(table.parent))
    ready = prepare(settings(Path("~/table.csv"), head("colour")))
    assert ready.settings.data.file == str(table)  # type: ignore[union-attr]


def test_other_data_have_another_fingerprint(table: Path) -> None:
    before = prepare(settings(table, head("colour"))).fingerprint()
    assert prepare(settings(table, head("colour"))).fingerprint() == before
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    assert prepare(settings(table, head("colour"))).fingerprint() != before
