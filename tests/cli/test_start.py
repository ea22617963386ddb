"""What commands import: what they say of wrong input, lists and ONNX files needs no torch."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from classy_vision import __version__, presets
from classy_vision.cli import COMMANDS, FUNCTIONS
from classy_vision.config import UnknownNameError
from classy_vision.data.config import DataConfig
from classy_vision.data.preprocessing import Preprocessing
from classy_vision.export import Head, export
from classy_vision.export.exported_model import load_exported
from classy_vision.models import MODELS, build_model
from classy_vision.predict import Predictor
from classy_vision.predict.array_predictor import ArrayPredictor, input_of
from classy_vision.presets import families
from tests.cost.golden import keys

HEAD = {"name": "fully_connected", "unique_id": "a", "fork_block": "block3-2", "num_classes": 3}
CODE = """
import json, sys
from classy_vision.cli import main
sys.argv = ["classy", *json.loads(sys.argv[1])]
try:
    main()
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def start(*arguments: object) -> tuple[int, str, set[str]]:
    """The exit code, what was printed, and the packages that were imported."""
    words = json.dumps([str(argument) for argument in arguments])
    done = subprocess.run([sys.executable, "-c", CODE, words], capture_output=True, text=True)
    *said, modules = done.stderr.splitlines()
    return done.returncode, "\n".join([done.stdout.strip(), *said]).strip(), set(json.loads(modules))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "Usage: classy"),
        (["-h"], 0, "Usage: classy"),
        (["--version"], 0, f"classy {__version__}"),
        (["list"], 0, "resnet50"),
        (["list", "vgg16"], 2, "error: unknown model 'vgg16'; it is not of these families: anynet"),
        (["show", "none.yaml"], 2, "error: cannot read the config 'none.yaml'"),
        (["show", "resnte50"], 2, "error: unknown model 'resnte50'; did you mean 'resnet50'?"),
        (["train", "none.yaml"], 2, "error: cannot read the config 'none.yaml'"),
        (["train", "--resume", "none"], 2, "error: 'none' is not a run folder"),
        (["train", "configs/digits.yaml", "--set", "schedule.lr=1"], 2, "did you mean 'learning_rate'?"),
        (["train", "configs/digits.yaml", "--epochs", "3"], 2, "did you mean --set schedule.epochs=3?"),
        (["compare", "resnte50"], 2, "error: unknown model 'resnte50'; did you mean 'resnet50'?"),
        (["compare", "resnet50", "--sort", "mac"], 2, "--sort: unknown column 'mac'; did you mean 'macs'?"),
        (["compare", "resnet50", "--train", "none.yaml"], 2, "error: cannot read the config 'none.yaml'"),
        (["predict", "none", "a.png"], 2, "error: unknown model 'none'"),
        (["predict", "resnet18", "a.png"], 2, "'resnet18' is a preset, which classy predict does not take"),
        (["predict", "none.onnx", "a.png"], 2, "error: no such exported file: 'none.onnx'"),
        (["weights", "list", "resnet50"], 0, "timm/resnet50.a1_in1k"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)  # fmt: skip
def test_what_needs_no_torch(arguments: list[str], code: int, said: str) -> None:
    status, printed, modules = start(*arguments)
    assert status == code, printed
    assert said in printed
    assert "torch" not in modules
    if arguments[0] in ("--help", "-h", "--version"):
        assert {"pydantic", "rich", "yaml", "numpy"}.isdisjoint(modules)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("model.depths=many", "anynet: depths = 'many': input should be a valid tuple"),
        ("model.heads.0.fork_block=block4", "unknown block 'block4'; did you mean 'block"),
        ("schedule.freeze.until=block4", "unknown block 'block4'; did you mean 'block"),
    ],
)
def test_wrong_values_need_no_packages_for_training(value: str, said: str, tmp_path: Path) -> None:
    status, printed, modules = start("train", "configs/digits.yaml", "--set", value, "-o", tmp_path / "run")
    assert (status, said in printed) == (2, True), printed
    assert {"accelerate", "matplotlib", "sympy"}.isdisjoint(modules)


@pytest.mark.parametrize("name", COMMANDS)
def test_summaries_are_those_of_the_commands(name: str) -> None:
    found = getattr(importlib.import_module(f"classy_vision.cli.{name}"), FUNCTIONS.get(name, name))
    said = found.info.help if isinstance(found, typer.Typer) else inspect.getdoc(found)
    assert COMMANDS[name] == str(said).split("\n\n")[0].replace("\n", " ")


def test_names_in_the_data_are_those_that_are_registered() -> None:
    ours = [entry for entry in MODELS if entry.cls.__module__.startswith("classy_vision.")]
    found: dict[str, list[str]] = {entry.name: [] for entry in ours if not entry.is_preset}
    for entry in ours:
        if entry.is_preset:
            found[entry.family].append(entry.name)
    known = families()
    assert {name: list(known[name]) for name in found} == found


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"name": "resnte50"}, "unknown model 'resnte50'; did you mean 'resnet50'?"),
        (
            {"name": "resnet50", "num_blokcs": [1]},
            "resnet50: unknown key 'num_blokcs'; did you mean 'num_blocks'?",
        ),
        ({"name": "resnet50", "pretrained": True}, "weights"),
        (
            {"name": "resnet50", "heads": [{**HEAD, "name": "fully_conected"}]},
            "did you mean 'fully_connected'?",
        ),
        ({"name": "resnet50", "heads": [{**HEAD, "num_clases": 3}]}, "did you mean 'num_classes'?"),
    ],
    ids=["name", "key", "what others call so", "head", "key of a head"],
)
@pytest.mark.parametrize("command", ["show", "export", "train"])
def test_wrong_configs_need_no_torch(command: str, config: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"model": config, "data": {"source": "digits"}} if command == "train" else config)
    )
    options = {"export": ["--format", "onnx", "-o", tmp_path / "m.onnx"], "train": ["-o", tmp_path / "run"]}
    status, printed, modules = start(command, path, *options.get(command, ()))
    assert (status, said in printed) == (2, True), printed
    assert "torch" not in modules
    with pytest.raises(UnknownNameError) as error:  # as build_model says it
        build_model(config)
    assert str(error.value) in printed


@pytest.mark.parametrize(
    "config",
    [
        {"name": "timm/resnet50.a1_in1k", "any": 1},
        {"name": "resnet50", "freeze_trunk": True},
        {"name": "resnet50", "any": 1, "heads": [{**HEAD, "in_plane": 3, "other": 1}]},
        {"name": 3}, {}, {"name": "resnet50", "heads": "none"}, {"name": "resnet50", "heads": [{"name": 3}, 3]},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_left_to_build_model(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "REGISTRIES", {})
    presets.check_keys(config)


def test_keys_in_the_data_are_those_of_the_configs() -> None:
    assert presets.KEYS.read_text() == keys(), "run: python -m tests.cost.golden"


# -- ONNX files


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = {
        "name": "anynet", "stem_type": "simple_stem_in", "stem_width": 4, "depths": [1], "widths": [8],
        "group_widths": [4], "bottleneck_multipliers": [1.0], "strides": [2], "block_type": "vanilla_block",
        "heads": [
            {"name": "fully_connected", "unique_id": kind, "num_classes": classes, "fork_block": "trunk_output"}
            for kind, classes in (("classification", 3), ("multilabel", 2), ("regression", 1))
        ],
    }  # fmt: skip
    names: dict[str, Any] = {"classification": ("a", "b", "c"), "multilabel": ("x", "y")}
    export(
        build_model(config).eval(),
        tmp_path_factory.mktemp("onnx") / "model.onnx",
        format="onnx",
        example=torch.empty(1, 3, 20, 20),
        heads={kind: Head(kind=kind, classes=names.get(kind, ())) for kind in (*names, "regression")},
        preprocessing={"image_size": 20, "resize": 24, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]},
    )
    return next(tmp_path_factory.getbasetemp().glob("onnx*/model.onnx"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "colour.png")
    Image.fromarray(pixels[:, :, 0]).save(folder / "grey.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return sorted(map(str, folder.iterdir()))


def test_onnx_is_predicted_without_torch(onnx: Path, images: list[str]) -> None:
    status, printed, modules = start("predict", onnx, images[1], "--format", "csv")
    assert status == 0, printed
    assert "classification,1," in printed
    assert {"torch", "pyarrow", "sklearn"}.isdisjoint(modules)


def test_onnx_predictions_are_those_with_torch(onnx: Path, images: list[str]) -> None:
    artefact = load_exported(onnx)
    ours = list(ArrayPredictor(artefact, input_of(artefact)).predict(images, 2))
    theirs = list(Predictor.load(onnx).predict(images, 2))
    assert [one.image for one in ours] == images
    for one, other in zip(ours, theirs):
        assert one.error == other.error
        assert list(one.scores) == list(other.scores)
        for head, scores in one.scores.items():
            assert [label for label, _ in scores] == [label for label, _ in other.scores[head]]
            numbers = [number for _, number in other.scores[head]]
            assert [number for _, number in scores] == pytest.approx(numbers, abs=1e-6)
    assert ours[0].error


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_torch(channels: int) -> None:
    rng = np.random.default_rng(channels)
    pixels = rng.integers(0, 256, (9, 9, channels), np.uint8)
    mean, std = rng.uniform(0.1, 0.9, (2, channels)).tolist()
    see = Preprocessing(DataConfig(image_size=9, mean=tuple(mean), std=tuple(std)))
    found = see.normalize(Image.fromarray(pixels.squeeze()))
    scaled = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    expected = (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert np.array_equal(found, expected.numpy())
