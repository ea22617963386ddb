"""``classy list``."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner, Result

from classy_vision.cli import app
from classy_vision.config import ConfigError
from classy_vision.models import MODELS, RegNet, register_model
from classy_vision.models.regnet import PRESETS
from classy_vision.presets import known_costs

GOLDEN = known_costs()


def run(*args: str, width: int = 80) -> Result:
    return CliRunner().invoke(app, ["list", *args], env={"COLUMNS": str(width)})


def names(*args: str) -> list[str]:
    return [row["name"] for row in json.loads(run(*args, "--format", "json").stdout)]


def test_all_presets_as_a_user_sees_them() -> None:
    words = [sys.executable, "-m", "classy_vision.cli", "list"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for entry in MODELS:
        assert not entry.is_preset or any(entry.name in line.split() for line in lines)
    assert max(map(len, lines)) <= 80
    assert "resnet50 25.6M 4.09G 3×224×224" in " ".join(done.stdout.split())
    assert "Families without presets, which a config describes: anynet" in done.stdout


def test_json() -> None:
    (row,) = json.loads(run("resnet50", "--format", "json").stdout)
    assert row == {
        "name": "resnet50",
        "family": "resnext",
        **GOLDEN["resnet50"],
    }


def test_csv() -> None:
    (row,) = csv.DictReader(io.StringIO(run("resnet50", "--format", "csv").stdout))
    assert row["params"] == str(GOLDEN["resnet50"]["params"])
    assert row["input_shape"] == "3x224x224"


@pytest.mark.parametrize("old", ["json", "csv"])
def test_formats_by_their_old_names(old: str) -> None:
    done = run("resnet50", f"--{old}")
    assert done.stdout == run("resnet50", "--format", old).stdout
    assert done.stderr == f"warning: --{old} is now --format {old}; the old name will be removed\n"


def test_a_preset_of_a_users_own_is_counted() -> None:
    register_model("my_regnet", {"my_regnet_tiny": PRESETS["regnet_x_200mf"]})(RegNet)
    (row,) = json.loads(run("my_regnet_tiny", "--format", "json").stdout)
    assert row == {"name": "my_regnet_tiny", "family": "my_regnet", **GOLDEN["regnet_x_200mf"]}


def test_patterns() -> None:
    assert names("regnet_?_4gf") == ["regnet_x_4gf", "regnet_y_4gf", "regnet_z_4gf"]
    assert names("REGNET_Z_*") == ["regnet_z_500mf", "regnet_z_4gf"]
    assert names("resnet18") == ["resnet18"]
    assert names("wide") == ["wide_resnet50_2", "wide_resnet101_2"]


def test_a_family_once() -> None:
    output = run("regnet_z*").stdout.split()
    assert output.count("regnet") == 1


@pytest.mark.parametrize(("pattern", "near"), [("resnte50", "resnet50"), ("regnet_q_*", "regnet")])
def test_nothing_matches(pattern: str, near: str) -> None:
    error = run(pattern).exception
    assert isinstance(error, ConfigError)
    assert f"unknown model {pattern!r}; did you mean '{near}" in str(error)


def test_an_error_is_one_message() -> None:
    command = [sys.executable, "-m", "classy_vision.cli", "list", "resnte50"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown model 'resnte50'")
    assert "Traceback" not in done.stderr
