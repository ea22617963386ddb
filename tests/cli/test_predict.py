"""``classy predict`` on files as people have them."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from classy_vision.cli import main
from classy_vision.config import ConfigError
from classy_vision.data.config import ClipConfig
from classy_vision.data.files import find_images
from classy_vision.data.samples import read_views
from classy_vision.models import ClassyModel, build_model, save_weights
from classy_vision.predict import Predictor, streaming
from classy_vision.train import TrainConfig, load_settings, train
from classy_vision.weights.catalogue import labels, published
from tests.data.videos import make_videos
from tests.train.command import classy, clips_job, head, job, write

Capture = pytest.CaptureFixture[str]
COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows red from blue, and how light an image is."""
    root = tmp_path_factory.mktemp("colours")
    rows = ["path,colour,light"]
    for number in range(40):
        name, colour = list(COLOURS.items())[number % 2]
        light = 0.3 + 0.7 * (number // 2) / 20
        Image.new("RGB", (12, 10), tuple(int(c * light) for c in colour)).save(root / f"{number}.png")
        rows.append(f"{number}.png,{name},{light:.3f}")
    (root / "table.csv").write_text("\n".join(rows))
    config = job(
        {"source": "table", "file": str(root / "table.csv")},
        head("colour"),
        head("light", "block1"),
        tasks={"colour": {}, "light": {"kind": "regression"}},
        schedule={"epochs": 8, "batch_size": 8},
    )
    train(load_settings(write(root / "job.json", config)), root / "run")
    return root / "run"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    Image.new("RGB", (20, 30), COLOURS["red"]).save(tmp_path / "red.jpg")
    Image.new("RGB", (20, 30), COLOURS["blue"]).save(tmp_path / "blue.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return tmp_path


def predict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: object
) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["classy", "predict", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    assert isinstance(code, int)
    return code, capsys.readouterr().out


def test_json(
    run: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [images / "red.jpg", images / "broken.png", images / "blue.png"]
    code, out = predict(capsys, monkeypatch, run, *paths, "--format", "json")
    found = json.loads(out)
    assert code == 1  # one could not be read
    assert [entry["image"] for entry in found] == list(map(str, paths))
    assert found[0]["predictions"]["colour"][0]["label"] == "red"
    assert found[2]["predictions"]["colour"][0]["label"] == "blue"
    assert sum(score["probability"] for score in found[0]["predictions"]["colour"]) == pytest.approx(1)
    assert 0 < found[0]["predictions"]["light"]["value"] < 2
    assert set(found[1]) == {"image", "error"}


def test_csv(
    run: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out = predict(capsys, monkeypatch, run, images / "red.jpg", "--format", "csv", "--top", "1")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [(row["head"], row["rank"]) for row in rows] == [("colour", "1"), ("light", "")]
    assert rows[1]["label"] == ""
    assert len(rows[1]["value"]) > 8  # all of its digits
    assert rows[0]["label"] == "red"
    assert 0.5 < float(rows[0]["probability"]) <= 1


def test_a_folder_as_a_table(run: Path, images: Path) -> None:
    done = classy("predict", run, images)
    assert done.returncode == 1
    assert done.stderr == ""
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["image", "head", "label", "probability"]
    firsts = {Path(line[0]).name: line[1:] for line in lines[1:] if line[0].startswith("/")}
    assert firsts["blue.png"][:2] == ["colour", "blue"]
    assert firsts["red.jpg"][:2] == ["colour", "red"]
    assert firsts["broken.png"][0] == "error:"


@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "table"])
def test_rows_come_before_the_last_file_is_read(
    run: Path, images: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, out = streaming.read_input, io.StringIO()

    def wait(one: Any, *rest: Any) -> Any:
        deadline = time.monotonic() + 20
        while one.name.endswith("blue.png") and "red.jpg" not in out.getvalue():
            assert time.monotonic() < deadline, "nothing was printed"
            time.sleep(0.01)
        return read(one, *rest)

    monkeypatch.setattr(streaming, "read_input", wait)
    monkeypatch.setattr("sys.stdout", out)
    files = [str(images / name) for name in ["red.jpg"] * 6 + ["blue.png"]]
    options = ["--batch-size", "2", "--workers", "1", "--format", format]
    monkeypatch.setattr("sys.argv", ["classy", "predict", str(run), *files, *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    said = out.getvalue()
    if format in ("json", "jsonl"):
        found = json.loads(said) if format == "json" else list(map(json.loads, said.splitlines()))
        assert [entry["image"] for entry in found] == files
    assert said.count("blue.png") == (3 if format == "csv" else 1)


def test_what_was_printed_is_valid_after_ctrl_c(
    run: Path, images: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = streaming.read_input

    def stop(one: Any, *rest: Any) -> Any:
        if one.name.endswith("blue.png"):
            raise KeyboardInterrupt
        return read(one, *rest)

    monkeypatch.setattr(streaming, "read_input", stop)
    files = [str(images / name) for name in ("red.jpg", "red.jpg", "blue.png")]
    options = ["--format", "json", "--batch-size", "1", "--workers", "1"]
    monkeypatch.setattr("sys.argv", ["classy", "predict", str(run), *files, *options])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (130, "stopped; what was printed is complete\n")
    assert 0 < len(json.loads(said.out)) <= 2


def test_a_folder_of_save_pretrained_predicts_as_its_run_does(
    run: Path, images: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ClassyModel.from_checkpoint(run)
    model.save_pretrained(tmp_path / "carried")  # what from_checkpoint brought along
    model.save_pretrained(tmp_path / "told", run=run)
    wanted = predict(capsys, monkeypatch, run, images / "red.jpg", "--format", "json")
    for name in ("carried", "told"):
        assert predict(capsys, monkeypatch, tmp_path / name, images / "red.jpg", "--format", "json") == wanted


def test_runs_that_cannot_be_used(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds neither config.yaml nor config.json"):
        Predictor.load(tmp_path)
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(ConfigError, match="is not finished: classy train --resume"):
        Predictor.load(tmp_path)


def test_names_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a file or folder of images is needed, not ''"):
        find_images([""])
    with pytest.raises(ConfigError, match="there is no video in the folder"):
        find_images([str(tmp_path)], "video")


# -- videos


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_videos(tmp_path_factory.mktemp("videos"), train=2, val=2, frames=12)


@pytest.fixture(scope="module")
def clips(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("clips") / "run"
    clip = {"frames": 4, "clips": 2, "crops": 3}
    train(TrainConfig.parse(clips_job(videos, data={"image_size": 16, "resize": 20, "clip": clip})), run)
    return run


def test_a_folder_of_videos(
    clips: Path, videos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.mp4").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    code, out = predict(capsys, monkeypatch, clips, videos / "val", tmp_path / "photo.mp4", "--format", "json")
    *found, bad = json.loads(out)
    assert code == 1
    assert [entry["video"] for entry in found] == sorted(map(str, (videos / "val").rglob("*.mp4")))
    for entry in found:
        assert sum(one["probability"] for one in entry["predictions"]["direction"]) == pytest.approx(1)
    assert bad["error"].startswith("not a video")
    code, out = predict(capsys, monkeypatch, clips, videos / "val" / "up", "--format", "csv", "--top", "1")
    assert code == 0
    assert out.startswith("video,head,rank,label,probability,value,error\n")


def test_probabilities_of_clips_and_crops_are_averaged(clips: Path, videos: Path) -> None:
    predictor = Predictor.load(clips)
    path = next(videos.rglob("*.mp4"))
    (prediction,) = predictor.predict([path])
    views = read_views(path, predictor.data, 3)
    assert len(views) == 6
    with torch.inference_mode():
        expected = predictor.model(views).softmax(1).mean(0)
    classes = predictor.tasks["direction"].classes
    assert dict(prediction.scores["direction"]) == pytest.approx(
        dict(zip(classes, expected.tolist())), abs=1e-5
    )


# -- weights


RESNET = "torchvision/resnet18.IMAGENET1K_V1"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Those of a ResNet-18 that always says "tench"."""
    torch.manual_seed(0)
    model = build_model("resnet18", num_classes=1000)
    with torch.no_grad():
        model.state_dict()["heads.trunk_output.default_head.fc.bias"][0] = 50
    save_weights(model, tmp_path / "resnet18.safetensors", layout="torchvision")
    return tmp_path / "resnet18.safetensors"


def test_published_weights(
    weights: Path, images: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classy_vision.trunk.loading.find_file", lambda source: weights)
    files = [images / "red.jpg", images / "broken.png"]
    code, out = predict(capsys, monkeypatch, *files, "--weights", RESNET, "--format", "json")
    red, broken = json.loads(out)
    assert code == 1
    assert red["predictions"]["default_head"][0]["label"] == labels("imagenet_1k")[0]
    assert len(red["predictions"]["default_head"]) == 5
    assert broken["error"]


def test_images_are_seen_as_the_publisher_says(
    weights: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("classy_vision.trunk.loading.find_file", lambda source: weights)
    for name in (RESNET, "timm/resnet18.a1_in1k"):
        theirs, seen = published(name).preprocessing, Predictor.of_weights(name).data
        assert (seen.image_size, seen.resize, seen.interpolation) == (
            theirs.image_size,
            theirs.resize,
            theirs.interpolation,
        )
        assert (seen.mean, seen.std) == (theirs.mean, theirs.std)


def test_a_file_of_weights(
    weights: Path, images: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--weights", weights, "--format", "csv", "--top", "1"]
    code, out = predict(capsys, monkeypatch, images / "red.jpg", *options, "--model", "resnet18")
    assert (code, next(csv.DictReader(io.StringIO(out)))["label"]) == (0, "0")
    code, out = predict(capsys, monkeypatch, images / "red.jpg", *options, "--model", RESNET)
    assert (code, next(csv.DictReader(io.StringIO(out)))["label"]) == (0, "tench")


@pytest.mark.slow
def test_weights_of_a_repository(
    videos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "hf-hub:MCG-NJU/videomae-small-finetuned-kinetics"
    torch.manual_seed(0)
    save_weights(build_model(name), tmp_path / "clips.safetensors", layout="transformers_videomae")
    monkeypatch.setattr("classy_vision.trunk.loading.find_file", lambda source: tmp_path / "clips.safetensors")
    data = Predictor.load(name).data
    assert (data.resize, data.mean) == (224, (0.485, 0.456, 0.406))
    assert data.clip == ClipConfig(frames=16, stride=4)
    video = next(videos.rglob("*.mp4"))
    code, out = predict(capsys, monkeypatch, name, video, "--format", "json", "--top", "400")
    (found,) = json.loads(out)
    assert code == 0
    assert {s["label"] for s in found["predictions"]["default_head"]} == set(labels("kinetics_400"))


@pytest.mark.slow
def test_video_weights(videos: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "torchvision/r3d_18.KINETICS400_V1"
    torch.manual_seed(0)
    save_weights(build_model(name), tmp_path / "r3d.safetensors", layout="torchvision")
    monkeypatch.setattr("classy_vision.trunk.loading.find_file", lambda source: tmp_path / "r3d.safetensors")
    data = Predictor.of_weights(name).data
    assert data.resize == (128, 171)
    assert data.clip is not None
    assert (data.clip.frames, data.clip.fps, data.clip.clips) == (16, 15, 5)
    video = next(videos.rglob("*.mp4"))
    code, out = predict(capsys, monkeypatch, video, "--weights", name, "--format", "json", "--top", "400")
    (found,) = json.loads(out)
    assert code == 0
    scores = found["predictions"]["default_head"]
    assert {score["label"] for score in scores} == set(labels("kinetics_400"))
    assert sum(score["probability"] for score in scores) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png"], "give a model and files, or --weights and files"),
        (["--weights", RESNET], "give files of images or videos after --weights"),
        (["a.png", "--weights", "mine.pth"], "are not published: give their model too"),
        (["a.png", "b", "--model", "resnet18"], "--model is for --weights"),
        (["a.png", "--weights", "timm/vit_base_patch16_224.dino"], "gives features, not classes"),
        (["a.png", "--weights", "timm/vit_base_patch16_clip_224.openai"], "gives embeddings, not classes"),
        (["a.png", "--weights", "timm/resnet18.a1_in1"], "did you mean 'timm/resnet18.a1_in1k'?"),
    ],
)
def test_what_predict_does_not_take(
    arguments: list[str], message: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["classy", "predict", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert message in said.err
    assert said.err.count("\n") == 1
