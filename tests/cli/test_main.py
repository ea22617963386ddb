"""What the command says of what goes wrong, and how it exits."""

from __future__ import annotations

import errno
import os

import pytest

from classy_vision import cli
from classy_vision.config import ConfigError, OperationError

LONG = "a" * 300 + ".yaml"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("wrong"), 2, "error: wrong"),
        (OperationError("cannot write 'x': No space left on device"), 1, "error: cannot write 'x'"),
        (
            OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "long"),
            2,
            "error: 'long': File name too long",
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"), 1, "error: 'x': No space left on device"),
        (MemoryError(), 1, "error: not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), 1, "not enough memory"),
    ],
)
def test_errors(
    error: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    told = capsys.readouterr().err
    assert caught.value.code == code
    assert said in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("arguments", [["show", LONG], ["weights", "show", LONG], ["predict", LONG, "a.png"]])
def test_names_that_are_too_long(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["classy", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "cannot print" not in told
    assert told.count("\n") == 1
