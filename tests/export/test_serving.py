"""The recipes of the page on serving fit what is exported."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from classy_vision.export import export, load_exported
from classy_vision.export.metadata import INPUT, KEY
from classy_vision.models import ClassyModel, build_model
from tests.docs.snippets import blocks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model() -> ClassyModel:
    """The one of configs/digits.yaml, with random weights."""
    from classy_vision.config import read_config

    config = read_config(ROOT / "configs/digits.yaml")["model"]
    for head in config["heads"]:
        head["num_classes"] = {"digit": 10, "loop": 2}[head["unique_id"]]
    return build_model(config).eval()


def shown(name: str) -> str:
    """A file on the page."""
    (text,) = [block.text for block in blocks("serving.md") if block.file == name]
    return text


def test_triton_is_told_the_names_and_shapes(model: ClassyModel, tmp_path: Path) -> None:
    import onnxruntime

    export(model, tmp_path / "m.onnx", format="onnx", example=torch.empty(1, 1, 16, 16))
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    text = shown("config.pbtxt")
    entry = r'name: "(\w+)", data_type: TYPE_FP32, dims: \[ ([\d, ]+) \]'
    told = {name: [int(size) for size in dims.split(",")] for name, dims in re.findall(entry, text)}
    found = {value.name: value.shape[1:] for value in (*session.get_inputs(), *session.get_outputs())}
    assert told == found == {"images": [1, 16, 16], "digit": [10], "loop": [2]}
    about = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    assert f"max_batch_size: {about['max_batch']}\n" in text
    most = session.run(None, {INPUT: np.zeros((64, 1, 16, 16), np.float32)})
    assert [len(output) for output in most] == [64, 64]


@pytest.mark.slow
def test_cpp_gives_what_python_does(model: ClassyModel, tmp_path: Path) -> None:
    path = tmp_path / "digits.pt2"
    export(model, path, format="aoti", example=torch.empty(1, 1, 16, 16))
    (tmp_path / "main.cpp").write_text(shown("main.cpp"))
    torch_folder = torch.__path__[0]
    (command,) = [b.text for b in blocks("serving.md") if b.text.startswith("TORCH=")]
    compile_command = command.split("\n", 1)[1].rsplit("./digits", 1)[0].replace("$TORCH", torch_folder)
    subprocess.run(compile_command, shell=True, check=True, cwd=tmp_path)
    done = subprocess.run(["./digits", str(path)], capture_output=True, text=True, check=True, cwd=tmp_path)
    about, *heads = done.stdout.splitlines()
    wanted = load_exported(path, trust=True)(torch.ones(3, 1, 16, 16))
    assert json.loads(about)["outputs"] == list(wanted)
    for line, output in zip(heads, wanted.values(), strict=True):
        shape, _, total = line.rpartition(" ")
        assert shape == str(list(output.shape))
        assert float(total) == pytest.approx(output.sum().item(), rel=1e-3, abs=1e-3)
