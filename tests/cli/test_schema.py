"""``classy schema``."""

from __future__ import annotations

import json
from pathlib import Path

from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from classy_vision.cli import app
from classy_vision.config import ConfigError, read_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["schema", *args])


def test_it_describes_the_configs_of_this_repository() -> None:
    validator = Draft202012Validator(json.loads(run().stdout))
    assert CONFIGS
    for path in CONFIGS:
        config = read_config(path)
        assert validator.is_valid(config), path
        assert not validator.is_valid({**config, "shedule": {}}), path


def test_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "classy.schema.json"
    done = run("--output", str(path))
    assert (done.exit_code, done.stdout) == (0, "")
    assert json.loads(path.read_text()) == json.loads(run().stdout)


def test_a_file_that_is_there_is_replaced_by_force_alone(tmp_path: Path) -> None:
    path = tmp_path / "classy.schema.json"
    path.write_text("mine")
    assert "exists: --force replaces it" in str(run("--output", str(path)).exception)
    assert path.read_text() == "mine"
    assert run("--output", str(path), "--force").exit_code == 0
    assert json.loads(path.read_text())


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    assert isinstance(run("--output", str(tmp_path / "no" / "file")).exception, ConfigError)
