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
import yaml
from typer.testing import CliRunner, Result

from classy_vision.cli import app
from classy_vision.config import ConfigError
from classy_vision.cost.presets import known_costs
from classy_vision.cost.table import human

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
    done = run(*args, "--json")
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
    assert "stem = initial_block 64×56×56 4 9.54K 118M 2.9%" in text
    assert "block0-2 = block0 256×56×56 4 70.4K 218M 5.3%" in text
    assert "└ default_head 1000 2.05M 2.05M 0.1%" in text
    assert "total 25.6M 4.09G 100%" in text
    assert any("with 1000: see --num-classes" in line for line in text)


@pytest.mark.parametrize("preset", ["regnet_z_4gf", "resnext101_32x8d"])
def test_tables_fit_80_columns(preset: str) -> None:
    lines = run(preset, width=80).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)


def test_nothing_is_lost_where_it_is_too_narrow() -> None:
    output = run("resnet18", width=62).stdout
    assert "…" not in output
    assert "initial_bloc" in output


def test_json_has_exact_numbers() -> None:
    row = data("regnet_y_400mf")
    assert {key: row[key] for key in GOLDEN["regnet_y_400mf"]} == GOLDEN["regnet_y_400mf"]
    assert sum(step["macs"] for step in row["steps"]) == row["macs"]
    assert row["steps"][0]["shape"] == [32, 112, 112]


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(run("resnet18", "--csv").stdout)))
    assert rows[0]["shape"] == "64x56x56"
    assert rows[-1]["reads"] == "trunk_output"


def test_heads_stand_where_they_sit(tmp_path: Path) -> None:
    file = written(tmp_path, MODEL)
    assert list(steps(file))[:6] == ["stem", "edge", "block0-0", "block0-1", "block1-0", "block1-1"]
    assert steps(file)["kind"]["reads"] == "block1-1"
    assert next(name for name, row in steps(file).items() if not row["runs"]) == "block2-0"
    output = " ".join(run(file).stdout.split())
    assert "No head reads behind block1-1: the forward pass stops there and saves" in output
    assert "--num-classes" not in output


def test_number_of_classes() -> None:
    assert steps("resnet18", "--num-classes", "7")["default_head"]["shape"] == [7]
    assert "default_head" not in steps("resnet18", "--num-classes", "0")
    assert run("resnet18", "--num-classes", "-1").exit_code == 2


def test_input_size() -> None:
    assert steps("resnet18", "--input-size", "256")["stem"]["shape"] == [64, 64, 64]
    assert steps("resnet18", "--input-size", "256x192")["stem"]["shape"] == [64, 64, 48]
    assert "such as 256 or 256x192" in message("resnet18", "--input-size", "0x5")


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
    assert "Heads that do not say their classes are shown with 1000" in run(file).stdout


def test_a_training_config_whose_model_is_a_name(tmp_path: Path) -> None:
    assert data(written(tmp_path, {"model": "resnet18"}))["model"] == "resnet18"


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
