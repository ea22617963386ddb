"""``classy export``, and ``classy predict`` with what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from classy_vision.cli import main
from classy_vision.cli.export import ExportFormat
from classy_vision.export import FORMATS, load_exported
from classy_vision.models import ClassyModel, build_model, save_weights
from classy_vision.train import TrainConfig, train
from tests.data.videos import make_videos
from tests.train.command import SMALL_TRUNK, classy, clips_job, digits_job, write

ROOT = Path(__file__).parents[2]
DIGITS = sorted(map(str, (ROOT / "examples/digits").glob("*.png")))
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in 16x16, with two heads."""
    folder = tmp_path_factory.mktemp("digits")
    config = digits_job(schedule={"epochs": 1})
    config["data"]["image_size"] = 16
    train(TrainConfig.parse(config), folder / "run")
    return folder / "run"


def call(capsys: Capture, *arguments: object) -> tuple[int, str]:
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["classy", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0), "".join(capsys.readouterr())


def predictions(text: str) -> list[dict[str, Any]]:
    """What ``--format json`` prints, with numbers that are nearly equal."""
    found = json.loads(text)
    for entry in found:
        for scores in entry.get("predictions", {}).values():
            for score in scores:
                score["probability"] = pytest.approx(score["probability"], abs=1e-5)
    return found


def test_all_formats_are_there() -> None:
    assert [entry.value for entry in ExportFormat] == list(FORMATS)


@pytest.mark.parametrize(
    "format", [pytest.param(name, marks=pytest.mark.slow if name == "aoti" else []) for name in FORMATS]
)
def test_predicts_as_the_run_does(format: str, run: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / f"digits{FORMATS[format].suffix}"
    code, said = call(capsys, "export", run, "--format", format, "--output", path)
    assert code == 0, said
    assert f"{path}: {format}, float32" in said
    assert "takes   (n, 1, 16, 16), n from 1 to 64" in said
    assert "digit: classification, 10 classes" in said
    assert load_exported(path, trust=True).labels["loop"] == ("closed", "open")
    wanted = call(capsys, "predict", run, *DIGITS, "--format", "json")
    given = call(capsys, "predict", path, "--trust", *DIGITS, "--format", "json")
    assert (given[0], wanted[0]) == (0, 0), (given[1], wanted[1])
    assert predictions(given[1]) == json.loads(wanted[1])


def test_a_folder_of_save_pretrained(run: Path, tmp_path: Path, capsys: Capture) -> None:
    ClassyModel.from_checkpoint(run).save_pretrained(tmp_path / "model")
    saved = []
    for name, source in (("run", run), ("model", tmp_path / "model")):
        path = tmp_path / f"{name}.safetensors"
        code, said = call(capsys, "export", source, "--format", "safetensors", "--output", path)
        assert code == 0, said
        saved.append(load_exported(path).metadata)
    assert saved[0].heads == saved[1].heads
    assert saved[0].heads["loop"].classes == ("closed", "open")
    assert saved[0].preprocessing == saved[1].preprocessing


def test_as_processes(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "digits.onnx"
    done = classy("export", run, "--format", "onnx", "--output", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "at most" in done.stdout
    done = classy("predict", path, DIGITS[3], "--top", "1", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert [line.split(",")[1:3] for line in done.stdout.splitlines()[1:]] == [["digit", "1"], ["loop", "1"]]


def test_bfloat16_of_a_run(run: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "digits.pt2"
    options = ("--format", "exported-program", "--output", path, "--dtype", "bfloat16")
    code, said = call(capsys, "export", run, *options)
    assert code == 0, said
    assert "digits.pt2: exported-program, bfloat16" in said
    wanted = json.loads(call(capsys, "predict", run, *DIGITS, "--top", "1", "--format", "json")[1])
    given = json.loads(call(capsys, "predict", path, "--trust", *DIGITS, "--top", "1", "--format", "json")[1])
    for one, other in zip(given, wanted, strict=True):
        for head, (best, *_) in other["predictions"].items():
            assert one["predictions"][head][0]["probability"] == pytest.approx(best["probability"], abs=0.02)


def test_int8_of_a_run(run: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "digits.onnx"
    options = ("--format", "onnx", "--output", path, "--int8")
    code, said = call(capsys, "export", run, *options, "--max-loss", "5")
    assert code == 0, said
    assert "digits.onnx: onnx, int8" in said
    assert "checked digit:" in said
    assert "points before" in said
    code, said = call(capsys, "predict", path, *DIGITS, "--top", "1")
    assert code == 0, said


def test_videos(tmp_path: Path, capsys: Capture) -> None:
    make_videos(tmp_path / "sports", train=2, val=1, frames=12)
    data = {"clip": {"frames": 8, "clips": 2, "crops": 3}}
    train(TrainConfig.parse(clips_job(tmp_path / "sports", data=data)), tmp_path / "run")
    path = tmp_path / "clips.pt2"
    options = ("--format", "exported-program", "--output", path, "--batch-size", "4")
    code, said = call(capsys, "export", tmp_path / "run", *options)
    assert code == 0, said
    assert "(n, 3, 8, 24, 24), n from 1 to 4" in said
    wanted = call(capsys, "predict", tmp_path / "run", tmp_path / "sports", "--format", "json")
    given = call(capsys, "predict", path, "--trust", tmp_path / "sports", "--format", "json")
    assert predictions(given[1]) == json.loads(wanted[1])


def test_models_that_are_no_runs(tmp_path: Path, capsys: Capture) -> None:
    model = {**SMALL_TRUNK, "num_classes": 3}
    weights, config = tmp_path / "w.safetensors", write(tmp_path / "model.json", model)
    save_weights(build_model(model), weights)
    path = tmp_path / "m.pt2"
    options = ("--format", "exported-program", "--output", path, "--image-size", "40", "--dynamic-size")
    code, said = call(capsys, "export", config, *options)
    assert code == 0, said
    assert "The weights are random" in said
    assert "(n, 3, any, any)" in said
    artefact = load_exported(path, trust=True)
    assert artefact.preprocessing["image_size"] == 40
    assert artefact.preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert artefact.labels == {"default_head": ("0", "1", "2")}
    code, said = call(capsys, "export", config, *options, "--weights", weights, "--force")
    assert code == 0, said
    assert "random" not in said


def test_values_are_no_images(tmp_path: Path, capsys: Capture) -> None:
    config = write(tmp_path / "mlp.json", {"name": "mlp", "input_dim": 6, "output_dim": 2, "hidden_dims": [4]})
    path = tmp_path / "m.safetensors"
    code, said = call(capsys, "export", config, "--format", "safetensors", "--output", path)
    assert code == 0, said
    assert "takes   (n, 6)" in said
    code, said = call(capsys, "predict", path, DIGITS[0])
    assert code == 2
    assert "does not say how images become its input" in said


REFUSED = {
    "an ending": (["--format", "onnx", "--output", "m.pt2"], "ends in .onnx"),
    "tolerance": (["--format", "onnx", "--output", "m.onnx", "--tolerance", "0"], "tolerance = 0.0"),
    "too much": (
        ["--format", "onnx", "--output", "m.onnx", "--tolerance", "1e-12"],
        "tolerance = 1e-12: nothing was written",
    ),
    "a folder": (["--format", "onnx", "--output", "none/m.onnx"], "there is no folder"),
    "int8": (
        ["--format", "safetensors", "--output", "m.safetensors", "--int8"],
        "safetensors files cannot hold int8 models",
    ),
    "bfloat16": (
        ["--format", "onnx", "--output", "m.onnx", "--dtype", "bfloat16"],
        "onnx files cannot hold bfloat16 models (allowed: exported-program, openvino, aoti, safetensors)",
    ),
    "two types": (
        ["--format", "aoti", "--output", "m.pt2", "--dtype", "bfloat16", "--int8"],
        "int8 and dtype = 'bfloat16'",
    ),
    "points": (["--format", "onnx", "--output", "m.onnx", "--int8", "--max-loss", "-1"], "max_loss = -1.0"),
    "points of no int8": (
        ["--format", "onnx", "--output", "m.onnx", "--max-loss", "2"],
        "--max-loss is for --int8",
    ),
    "a tolerance of int8": (
        ["--format", "onnx", "--output", "m.onnx", "--int8", "--tolerance", "0.1"],
        "int8 and tolerance = 0.1: scores are compared",
    ),
    "weights": (["--format", "onnx", "--output", "m.onnx", "--weights", "w"], "a run folder has its own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(
    case: str, run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, wanted = REFUSED[case]
    code, said = call(capsys, "export", run, *arguments)
    assert code == 2
    assert wanted in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_refused_without_a_run(tmp_path: Path, capsys: Capture) -> None:
    options = ("--format", "onnx", "--output", tmp_path / "m.onnx")
    code, said = call(capsys, "export", "resnet18", *options, "--int8")
    assert (code, said) == (2, "error: --int8 needs a run folder: ranges and accuracy come from its data\n")
    code, said = call(capsys, "export", "resnot18", *options)
    assert code == 2
    assert "did you mean" in said
    code, said = call(capsys, "predict", tmp_path / "none.onnx", DIGITS[0])
    assert (code, said) == (2, f"error: no such exported file: {str(tmp_path / 'none.onnx')!r}\n")
