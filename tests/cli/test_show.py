"""``classy show``."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from classy_vision.cli import app
from classy_vision.config import ConfigError
from classy_vision.cost import free_memory
from classy_vision.models import ClassyModel, register_model
from classy_vision.presets import known_costs
from classy_vision.text import human

GOLDEN = known_costs()
MODEL = {
    "name": "resnet18",
    "heads": [
        {"name": "fully_connected", "unique_id": "kind", "num_classes": 7, "fork_block": "block1"},
        {"name": "fully_connected", "unique_id": "edge", "num_classes": 2, "fork_block": "stem"},
    ],
}


def run(*args: str, width: int = 100) -> Result:
    return CliRunner().invoke(app, ["show", *args], env={"COLUMNS": str(width)})


def data(*args: str) -> dict[str, Any]:
    done = run(*args, "--format", "json")
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def steps(*args: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in data(*args)["steps"]}


def written(folder: Path, config: Any) -> str:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def message(*args: str) -> str:
    error = run(*args).exception
    assert isinstance(error, ConfigError)
    return str(error)


def test_a_preset_as_a_user_sees_it() -> None:
    command = [sys.executable, "-m", "classy_vision.cli", "show", "resnet50"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    text = [" ".join(line.split()) for line in lines]
    assert "resnet50, input 3×224×224" in text
    assert "step output stride field params MACs acts" in text
    assert "stem = initial_block 64×56×56 4 11 9.54K 118M 803K" in text
    assert "block0-2 = block0 256×56×56 4 35 70.4K 218M 1.20M" in text
    assert "└ default_head 1000 all 2.05M 2.05M 1.00K" in text
    assert "total 25.6M 4.09G 11.1M" in text
    assert any("with 1000: see --num-classes" in line for line in text)


@pytest.mark.parametrize("preset", ["regnet_z_4gf", "resnext101_32x8d"])
def test_tables_fit_80_columns(preset: str) -> None:
    lines = run(preset, width=80).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("preset", ["resnext101_32x8d", "regnet_y_256gf", "slow_r50", "densenet201"])
@pytest.mark.parametrize("options", [(), ("--batch-size", "64")])
def test_tables_fit_100_columns(preset: str, options: tuple[str, ...]) -> None:
    lines = run(preset, *options).stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(lines)
    headings = ["step", "output", "stride", "field", "params", "MACs", "share", "acts", "infer", "train"]
    assert headings in [line.split() for line in lines]


def test_nothing_is_lost_where_it_is_too_narrow() -> None:
    output = run("resnet18", width=62).stdout
    assert "…" not in output
    assert "initial" in output


def test_json_has_exact_numbers() -> None:
    row = data("regnet_y_400mf")
    assert {key: row[key] for key in GOLDEN["regnet_y_400mf"]} == GOLDEN["regnet_y_400mf"]
    assert sum(step["macs"] for step in row["steps"]) == row["macs"]
    assert row["steps"][0]["shape"] == [32, 112, 112]


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(run("resnet18", "--format", "csv").stdout)))
    assert rows[0]["shape"] == "64x56x56"
    assert rows[-1]["reads"] == "trunk_output"


def test_heads_stand_where_they_sit(tmp_path: Path) -> None:
    file = written(tmp_path, MODEL)
    assert list(steps(file))[:6] == ["stem", "edge", "block0-0", "block0-1", "block1-0", "block1-1"]
    assert steps(file)["kind"]["reads"] == "block1-1"
    assert next(name for name, row in steps(file).items() if not row["runs"]) == "block2-0"
    output = " ".join(run(file).stdout.split())
    assert "No head reads after block1-1: the forward pass stops there and saves" in output
    assert "--num-classes" not in output


def test_number_of_classes() -> None:
    assert steps("resnet18", "--num-classes", "7")["default_head"]["shape"] == [7]
    assert "default_head" not in steps("resnet18", "--num-classes", "0")
    assert run("resnet18", "--num-classes", "-1").exit_code == 2


def test_input_size() -> None:
    assert steps("resnet18", "--image-size", "256")["stem"]["shape"] == [64, 64, 64]
    assert steps("resnet18", "--image-size", "256x192")["stem"]["shape"] == [64, 64, 48]
    assert "such as 256 or 256x192" in message("resnet18", "--image-size", "0x5")


def test_a_model_config_in_json(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(MODEL))
    assert data(str(path))["model"] == "resnet18"


def test_a_model_config_without_heads_has_none(tmp_path: Path) -> None:
    assert list(steps(written(tmp_path, {"name": "resnet18"})))[-1] == "trunk_output"


def test_a_training_config_leaves_classes_to_the_data(tmp_path: Path) -> None:
    heads = [
        {"name": "fully_connected", "unique_id": "a", "fork_block": "block0"},
        {"name": "fully_convolutional_linear", "unique_id": "b", "fork_block": "block1"},
        {"name": "fully_connected", "unique_id": "c", "num_classes": 3, "fork_block": "block1"},
    ]
    config = {"model": {"name": "resnet18", "heads": heads}, "data": {"source": "digits", "image_size": 64}}
    file = written(tmp_path, config)
    assert [steps(file)[head]["shape"] for head in "abc"] == [[1000], [1000], [3]]
    assert [steps(file, "--num-classes", "9")[head]["shape"] for head in "abc"] == [[9], [9], [3]]
    assert data(file)["input_shape"] == [3, 64, 64]
    assert "Heads without a number of classes are shown with 1000" in run(file).stdout


def test_a_training_config_whose_model_is_a_name(tmp_path: Path) -> None:
    assert data(written(tmp_path, {"model": "resnet18"}))["model"] == "resnet18"


def test_a_run_folder(tmp_path: Path) -> None:
    written(tmp_path, {"model": MODEL, "data": {"image_size": 64}})
    assert data(str(tmp_path))["input_shape"] == [3, 64, 64]
    (tmp_path / "config.yaml").unlink()
    assert "it holds neither config.yaml nor config.json" in message(str(tmp_path))


def test_each_row_has_its_costs(tmp_path: Path) -> None:
    found = data(written(tmp_path, MODEL), "--batch-size", "4")
    rows = {row["name"]: row for row in found["steps"]}
    assert (rows["block0-1"]["receptive_field"], rows["block0-1"]["gated"]) == (43, False)
    assert rows["kind"]["receptive_field"] is None
    assert sum(row["activations"] for row in found["steps"]) == found["activations"]
    assert found["memory"]["batch"] == 4
    assert found["memory"]["inference"]["peak"] < found["memory"]["training"]["peak"]
    assert [row["training_bytes"] is None for row in found["steps"]] == [
        not row["runs"] for row in found["steps"]
    ]
    assert found["uncounted"] == []


def test_what_heads_cost(tmp_path: Path) -> None:
    found = data(written(tmp_path, MODEL))
    kind = next(head for head in found["heads"] if head["name"] == "kind")
    assert kind["without"]["macs"] < found["running"]["macs"] / 4
    output = " ".join(run(written(tmp_path, MODEL)).stdout.split())
    assert "Without kind the forward pass ends at stem and takes 118M MACs, 873M less (88%)." in output
    assert "Without edge the forward pass ends at block1-1" in output


def test_operators_that_are_not_counted_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fourier(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(x).real

    @register_model("fourier")
    class FourierNet(ClassyModel):
        def __init__(self, config: Any = None, **options: Any) -> None:
            super().__init__(config, **options)
            self.stem, self.blocks, self.tail = Fourier(), nn.ModuleDict(), nn.Identity()

    assert data("fourier")["uncounted"] == ["aten._fft_r2c"]
    assert "Not counted, because their costs are unknown: aten._fft_r2c." in run("fourier").stdout


MEASURE = ("resnet18", "--measure", "--image-size", "32", "--batch-size", "2")


def test_measured() -> None:
    found = data(*MEASURE)
    assert found["measured"]["batch"] == 2
    assert found["measured"]["ms_low"] <= found["measured"]["ms"] <= found["measured"]["ms_high"]
    assert all(row["ms"] > 0 for row in found["steps"])
    rows = list(csv.DictReader(io.StringIO(run(*MEASURE, "--format", "csv").stdout)))
    assert float(rows[0]["ms_low"]) <= float(rows[0]["ms"])


@pytest.mark.parametrize("width", [80, 100])
def test_measured_tables_fit(width: int) -> None:
    output = run(*MEASURE, width=width).stdout
    assert max(map(len, output.splitlines())) <= width
    assert "inputs a second" in " ".join(output.split())
    assert "MACs" in output


def test_steps_that_do_not_run_are_not_measured(tmp_path: Path) -> None:
    rows = steps(written(tmp_path, MODEL), "--measure", "--image-size", "32")
    assert rows["kind"]["ms"] > 0
    assert rows["block3-1"]["ms"] is None


@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_a_picture(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"trunk.{suffix}"
    done = run(written(tmp_path, MODEL), "--plot", str(file))
    assert done.exit_code == 0, done.exception
    assert "block1-0" in file.read_text()
    file.write_text("mine")
    options = (written(tmp_path, MODEL), "--plot", str(file))
    assert f"--plot {file} exists: --force replaces it" in message(*options)
    assert file.read_text() == "mine"
    assert run(*options, "--force").exit_code == 0
    assert "block1-0" in file.read_text()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--plot", "trunk.gif"), ".gif"),
        (("--plot", "none/trunk.svg"), "there is no folder"),
        (("--compile",), "say how to --measure"),
        (("--dtype", "float8"), "unknown dtype 'float8'"),
        (("--device", "gpu"), "unknown device 'gpu'"),
    ],
)
def test_options_are_checked_before_any_work(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], text: str
) -> None:
    monkeypatch.setattr("classy_vision.models.build_model", None)
    assert text in message("resnet18", *options)


def test_a_model_that_does_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "find_free", lambda device: 1e6)
    text = message("regnet_y_10b_seer", "--measure")
    assert text.startswith("RegNet needs about 37.")
    assert "and 1.00MB are free on cpu" in text
    assert "\n" not in text


def test_an_input_that_a_family_cannot_take() -> None:
    text = message("vit_b_16", "--image-size", "225")
    assert "VisionTransformer cannot take an input of (3, 225, 225)" in text
    assert "\n" not in text


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    assert "unknown model 'resnet5'; did you mean 'resnet50'?" in message("resnet5")
    assert "cannot read the config" in message(str(tmp_path / "none.yaml"))
    assert "key 'name', a training config the key 'model'" in message(written(tmp_path, {"modle": {}}))
    assert "did you mean 'small_input'" in message(written(tmp_path, {"name": "resnet18", "smal_input": True}))
    assert "'depth' is required" in message("regnet")
    assert "heads is a list of mappings" in message(written(tmp_path, {"name": "resnet18", "heads": ["a"]}))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00K"),
        (9994, "9.99K"),
        (9996, "10.0K"),
        (99949, "99.9K"),
        (99960, "100K"),
        (999499, "999K"),
        (999600, "1.00M"),
        (25557032, "25.6M"),
        (4089184256, "4.09G"),
    ],
)
def test_human_numbers(number: int, text: str) -> None:
    assert human(number) == text
