"""What is written is whole or not there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from classy_vision.atomic import check_target, replacing
from classy_vision.config import ConfigError, OperationError


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = (
        "import os, sys; from classy_vision.atomic import replacing\n"
        "with replacing(sys.argv[1]) as beside:\n    beside.write_text('new'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9
    assert path.read_text() == "old"
    with replacing(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new"


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    there = tmp_path / "table.csv"
    there.write_text("mine")
    with pytest.raises(ConfigError, match=r"^--output .*table\.csv exists: --force replaces it"):
        check_target(there, [".csv"], force=False, option="--output")
    check_target(there, [".csv"], force=True)
    with pytest.raises(ConfigError, match=r"unknown ending '\.cvs'; did you mean '\.csv'"):
        check_target(tmp_path / "table.cvs", [".csv"], force=False)
    check_target(tmp_path / "table.cvs", force=False)
    with pytest.raises(ConfigError, match="there is no folder"):
        check_target(tmp_path / "no" / "table.csv", [".csv"], force=False)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match="exists and is not a file"):
        check_target(tmp_path / "folder.csv", [".csv"], force=True)
    assert there.read_text() == "mine"


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_half(path: Path) -> None:
    path.write_bytes(b"half")
    fail()


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_nothing_is_left_beside_a_file_that_cannot_be_written(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("old")
    if where != "write":
        monkeypatch.setattr(os, where, fail)
    with (
        pytest.raises(OperationError, match=r"cannot write .*config\.yaml': No space left"),
        replacing(path) as part,
    ):
        write_half(part) if where == "write" else part.write_bytes(b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]
    assert path.read_text() == "old"
