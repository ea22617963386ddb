"""``classy sample``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from classy_vision.cli import app
from classy_vision.config import ConfigError
from tests.train.command import classy

BOUNDS = """
space: regnet_x
stages: 2
depth: [2, 6]
w_0: [8, 16]
w_a: [8, 32]
macs: [20K, 2M]
input_size: 32
num_classes: 10
"""


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["sample", *map(str, args)])


@pytest.fixture
def bounds(tmp_path: Path) -> Path:
    path = tmp_path / "little.yaml"
    path.write_text(BOUNDS)
    return path


def test_a_folder_of_configs_as_a_user_gets_it(bounds: Path) -> None:
    options = ("-n", 3, "--seed", 2, "--output")
    done = classy("sample", bounds, *options, "a", cwd=bounds.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "3 models of little, seed 2: a"
    assert run(bounds, *options, bounds.parent / "b").exit_code == 0
    files = {path.name: path.read_bytes() for path in (bounds.parent / "a").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (bounds.parent / "b").iterdir()}
    assert sorted(files) == ["index.json", *(f"little-s2-000{i}.yaml" for i in range(3))]
    macs = [model["macs"] for model in json.loads(files["index.json"])["models"]]
    assert all(20e3 <= one <= 2e6 for one in macs)
    compared = CliRunner().invoke(app, ["compare", str(bounds.parent / "a")])
    assert compared.exit_code == 0
    assert compared.stdout.count("little-s2-000") == 3


def test_where_it_goes_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("anynet_x_e", "-n", 1).exit_code == 0
    (file,) = Path("samples/anynet_x_e").glob("*.yaml")
    assert file.name == "anynet_x_e-s0-0000.yaml"


def test_what_is_there_is_refused_before_anything_is_drawn(
    bounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(bounds, "-n", 2, "--output", tmp_path / "nets").exit_code == 0
    assert run(bounds, "-n", 1, "--output", tmp_path / "nets", "--force").exit_code == 0
    assert len(list((tmp_path / "nets").iterdir())) == 2
    monkeypatch.setattr("classy_vision.study.draw.sample", None)
    error = run(bounds, "-n", 2, "--output", tmp_path / "nets").exception
    assert isinstance(error, ConfigError)
    assert "replace it by --force" in str(error)


def test_a_bound_that_is_never_met_leaves_nothing(bounds: Path, tmp_path: Path) -> None:
    bounds.write_text(BOUNDS.replace("[20K, 2M]", "[20, 30]"))
    done = classy("sample", bounds, "--output", tmp_path / "nets")
    assert (done.returncode, done.stdout) == (2, "")
    assert "macs = [20, 30]: all are above, the nearest has" in done.stderr
    assert not (tmp_path / "nets").exists()


@pytest.mark.parametrize("region", ["regnet_w", "gone.yaml"])
def test_no_such_region(region: str) -> None:
    assert isinstance(run(region).exception, ConfigError)
