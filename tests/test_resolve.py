"""Every kind of word that means a model, for every command and function that takes one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from classy_vision.cli.failures import run as run_app
from classy_vision.engines import optimize
from classy_vision.export import Head, export
from classy_vision.models import ClassyModel, build_model, load_weights, save_weights
from classy_vision.resolve import Kind, resolve
from tests.weights.hub import serve

TRUNK = {"name": "resnext", "num_blocks": [1, 1], "init_planes": 4}
CONFIG: dict[str, Any] = {**TRUNK, "num_classes": 3}
SETTINGS: dict[str, Any] = {
    "model": {**TRUNK, "heads": [{"name": "fully_connected", "unique_id": "kind", "num_classes": 3,
                                   "fork_block": "trunk_output"}]},
    "data": {"source": "folder", "root": "images", "image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
    "tasks": {"kind": {"classes": ["a", "b", "c"]}},
    "schedule": {"epochs": 1},
}  # fmt: skip
PUBLISHED = "timm/tiny.test"
HUB = "hf-hub:someone/tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words")


@pytest.fixture(scope="module")
def words(folder: Path) -> dict[Kind, str]:
    """A word of each kind."""
    torch.manual_seed(0)
    model = build_model(CONFIG)
    (folder / "net.yaml").write_text(json.dumps(CONFIG))
    model.save_pretrained(folder / "saved")
    model.save_pretrained(folder / "hub" / "someone" / "tiny")
    save_weights(model, folder / "net.safetensors")
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(json.dumps(SETTINGS))
    save_weights(build_model(SETTINGS["model"]), folder / "run" / "model.safetensors")
    (folder / "run" / "metrics.json").write_text(json.dumps({"final": {}, "epochs": [{}]}))
    export(
        model.eval(),
        folder / "exported.safetensors",
        format="safetensors",
        example=torch.empty(1, 3, 32, 32),
        preprocessing={"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3},
        heads={"default_head": Head(kind="classification", classes=("a", "b", "c"))},
    )
    (folder / "images" / "a").mkdir(parents=True)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "images" / "a" / "1.png")
    return {
        Kind.PRESET: "regnet_x_200mf",
        Kind.FAMILY: "resnet",
        Kind.PUBLISHED: PUBLISHED,
        Kind.HUB: HUB,
        Kind.CONFIG: str(folder / "net.yaml"),
        Kind.RUN: str(folder / "run"),
        Kind.SAVED: str(folder / "saved"),
        Kind.WEIGHTS: str(folder / "net.safetensors"),
        Kind.EXPORTED: str(folder / "exported.safetensors"),
    }


@pytest.fixture(autouse=True)
def offline(words: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub with one repository, and one published file, that are folders here."""
    from classy_vision.weights import catalogue

    seen = {"image_size": 32, "resize": 32, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}
    row = {"config": CONFIG, "params": 1, "outputs": "classes", "labels": None, "top1": None, "license": "mit"}
    row |= {"place": "someone/tiny", "preprocessing": seen}
    rows = {"timm": {"tiny.test": row}, "torchvision": {}, "transformers": {}}
    monkeypatch.setattr(catalogue, "_read_rows", rows.__getitem__)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "cache"))
    with serve(folder / "hub") as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield


NO_WEIGHTS = {Kind.PRESET, Kind.FAMILY, Kind.CONFIG}
# what takes words: the kinds that it does not take
COMMANDS: dict[str, tuple[tuple[str, ...], set[Kind]]] = {
    "show": (("WORD", "--image-size", "32"), {Kind.EXPORTED}),
    "compare": (("WORD", "--image-size", "32"), {Kind.EXPORTED}),
    "export": (
        ("WORD", "--format", "safetensors", "-o", "OUT.safetensors", "--image-size", "32"),
        {Kind.EXPORTED},
    ),
    "predict": (("WORD", "IMAGES"), NO_WEIGHTS),
    "evaluate": (("WORD", "IMAGES", "-o", "OUT"), NO_WEIGHTS),
    "weights show": (("WORD",), NO_WEIGHTS),
}
FUNCTIONS: dict[str, tuple[Callable[[str], Any], set[Kind]]] = {
    "build_model": (build_model, {Kind.HUB, Kind.WEIGHTS, Kind.EXPORTED}),
    "optimize": (lambda word: optimize(word, torch.zeros(1, 3, 32, 32)), {Kind.EXPORTED}),
    "load_weights": (lambda word: load_weights(build_model(CONFIG), word, skip_heads=True), NO_WEIGHTS),
}
NEEDS_NAMES = {("evaluate", kind) for kind in Kind if kind is not Kind.RUN}
"""Models whose classes have no names cannot be evaluated on a folder."""


def call(capsys: pytest.CaptureFixture[str], command: str, *arguments: str) -> tuple[int, str]:
    from classy_vision.cli import app

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["classy", *command.split(), *arguments])
        with pytest.raises(SystemExit) as end:
            run_app(app)
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out + said.err


def test_each_word_is_of_its_kind(words: dict[Kind, str]) -> None:
    assert {kind: resolve(word).kind for kind, word in words.items()} == {kind: kind for kind in Kind}


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("command", COMMANDS)
def test_commands(
    command: str, kind: Kind, words: dict[Kind, str], folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments, refused = COMMANDS[command]
    places = {"WORD": words[kind], "IMAGES": str(folder / "images"), "OUT": str(tmp_path / "out")}
    places["OUT.safetensors"] = str(tmp_path / "out.safetensors")
    code, said = call(capsys, command, *(places.get(word, word) for word in arguments))
    if kind in refused:
        assert code == 2
        assert f"is {kind.value}, which classy {command} does not take" in said
    elif kind is Kind.FAMILY:
        assert code != 0
        assert "key 'num_blocks' is required" in said
    elif (command, kind) in NEEDS_NAMES:
        assert "does not take" not in said
    else:
        assert code == 0, said


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions(function: str, kind: Kind, words: dict[Kind, str]) -> None:
    take, refused = FUNCTIONS[function]
    if kind in refused:
        with pytest.raises(ValueError, match=f"is {kind.value}, which {function} does not take"):
            take(words[kind])
    elif kind is Kind.FAMILY:
        with pytest.raises(ValueError, match="key 'num_blocks' is required"):
            take(words[kind])
    else:
        assert take(words[kind])


def test_build_model_loads_the_weights_of_a_folder(words: dict[Kind, str]) -> None:
    wanted = ClassyModel.from_pretrained(words[Kind.SAVED]).state_dict()
    found = build_model(words[Kind.SAVED], weights=True).state_dict()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert len(wanted) == len(found)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("resnet5O", "unknown model 'resnet5O'; did you mean 'resnet50'?"),
        ("timm/tiny.tset", "unknown published weights 'timm/tiny.tset'; did you mean 'timm/tiny.test'?"),
        ("runs/none", "there is no file and no folder 'runs/none'; a repository of the hub is written"),
        ("gone.yaml", "cannot read the config 'gone.yaml': No such file or directory"),
        ("gone.onnx", "no such exported file: 'gone.onnx'"),
        ("gone.pth", "no such weights file: 'gone.pth'"),
        (".", "it holds neither config.yaml nor config.json"),
        ("", "does not name a model"),
        ("a" * 300 + ".yaml", "File name too long"),
        ("nul\0byte", "unknown model"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)  # fmt: skip
def test_words_that_mean_nothing(word: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is compared
        resolve(word)
    assert said in str(caught.value)


def test_names_of_models_win_over_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("resnet50")
    assert resolve("resnet50").kind is Kind.PRESET


@pytest.mark.parametrize("content", [b"name: resnet18\n", b"PK\x03\x04\0\0", b""])
def test_files_without_a_suffix(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert resolve(tmp_path / "file").kind is (Kind.WEIGHTS if b"\0" in content else Kind.CONFIG)


@pytest.mark.parametrize("content", [b"", b"\xff" * 16, b"\2\0\0\0\0\0\0\0[]", b"\2\0\0\0\0\0\0\0{}"])
def test_damaged_weights_are_weights(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    assert resolve(tmp_path / "w.safetensors").kind is Kind.WEIGHTS
