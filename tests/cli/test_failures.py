"""Exit codes: 2 where the command is wrong, 1 where it failed, 130 after Ctrl-C; and what is said."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from classy_vision.cli import app
from classy_vision.cli.failures import run
from classy_vision.config import ConfigError
from classy_vision.errors import OperationError

Capture = pytest.CaptureFixture[str]


def ended(error: BaseException, capsys: Capture) -> tuple[int, str]:
    """The exit code and the message of a command that raises ``error``."""

    def command(**_: Any) -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        run(command)
    assert isinstance(end.value.code, int)
    return end.value.code, capsys.readouterr().err.strip()


def caused(by: BaseException) -> ConfigError:
    """An error that hides its cause, as messages do."""
    try:
        try:
            raise by
        except Exception:
            raise ConfigError("cannot write 'x'") from None
    except ConfigError as error:
        return error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("no such thing"), 2, "error: no such thing"),
        (OperationError("the loss is nan"), 1, "error: the loss is nan"),
        (caused(FULL), 1, "error: cannot write 'x'"),
        (caused(PermissionError(errno.EACCES, "Permission denied")), 2, "error: cannot write 'x'"),
        (caused(RuntimeError("PytorchStreamWriter failed: no space left on device")), 1, "error: cannot"),
        (MemoryError(), 1, "error: not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 1, "error: not enough memory: CUDA out of"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "error: not enough memory"),
        (KeyboardInterrupt(), 130, "stopped"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.txt"), 2, "error: 'x.txt': No such"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), 2, "error: 'aaa': File name too long"),
        (OSError(errno.EAGAIN, "Try again"), 1, "error: Try again"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_codes(error: BaseException, code: int, said: str, capsys: Capture) -> None:
    found, message = ended(error, capsys)
    assert found == code
    assert message.startswith(said)
    assert "\n" not in message


def test_mistakes_of_ours_are_not_hidden(capsys: Capture) -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        ended(RuntimeError("mat1 and mat2 shapes cannot be multiplied"), capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "resnet18", "--nosuch"], "error: No such option: --nosuch; see classy show --help"),
        (["show"], "error: Missing argument 'MODEL'; see classy show --help"),
        (["shwo"], "error: No such command 'shwo'. Did you mean 'show'?; see classy --help"),
        (["compare", "a", "--batch-size", "x"], "error: Invalid value for '--batch-size'"),
        (["train", "a.yaml", "--lr=0.1"],
         "error: No such option: --lr; did you mean --set schedule.learning_rate=0.1?"),
        (["show", "x" * 300], "error: unknown model 'xxx"),
    ],
)  # fmt: skip
def test_wrong_use(
    arguments: list[str], said: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["classy", *arguments])
    with pytest.raises(SystemExit) as end:
        run(app)
    message = capsys.readouterr().err
    assert end.value.code == 2
    assert message.startswith(said)
    assert message.count("\n") == 1
