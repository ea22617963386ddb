"""The messages and exit codes of errors on the command line."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer

from classy_vision.errors import FAILURES, ConfigError, first_line, shown

WRONG, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes of a wrong command, of one that failed while it ran, and of one that Ctrl-C ended."""
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
"""The class of Typer or of Click, depending on the version."""
OF_PRINTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE, errno.EBADF})
"""Errors of standard output, where they do not name a file."""
NO_MEMORY = ("out of memory", "allocate memory", "not enough memory")
"""Words in messages of torch, which raises a RuntimeError where the CPU has no memory."""


def run(app: Callable[..., Any]) -> NoReturn:
    """Runs ``app``, and exits."""
    warnings.formatwarning = _format_warning
    try:
        status = app(prog_name="classy", standalone_mode=False) or 0
        sys.stdout.flush()
    except USAGE_ERROR as error:
        _exit(_write_usage(error), WRONG)
    except ConfigError as error:
        _exit(f"error: {error}", FAILED if _is_failure(error) else error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _exit("stopped", INTERRUPTED)
    except OSError as error:
        _tell(error)
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        _exit(f"error: not enough memory: {first_line(error)}", FAILED)
    sys.exit(status)


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Formats a warning of ours in one line for people, and others with their place."""
    if category.__module__.startswith("classy_vision."):
        return f"warning: {message}\n"
    return _FORMAT(message, category, filename, lineno, line)


_FORMAT = warnings.formatwarning


def _exit(text: str, status: int) -> NoReturn:
    print(text, file=sys.stderr)
    sys.exit(status)


def _tell(error: OSError) -> NoReturn:
    """Prints the error of a file, which it names, or of standard output, which has no name."""
    reason = error.strerror or first_line(error)
    if error.filename is not None:
        _exit(f"error: {shown(str(error.filename))}: {reason}", FAILED if _is_failure(error) else WRONG)
    if error.errno not in OF_PRINTING:
        _exit(f"error: {reason}", FAILED)
    print(f"error: cannot print: {reason}", file=sys.stderr)
    os._exit(FAILED)  # the interpreter would try to print the rest


def _is_failure(error: BaseException) -> bool:
    """Tells whether the machine or the numbers caused it, and not the command."""
    return any(
        (isinstance(cause, ConfigError) and cause.exit_code == FAILED)
        or _is_memory(cause)
        or (isinstance(cause, OSError) and cause.errno in FAILURES)
        or "no space left on device" in str(cause).lower()  # raised by libraries with errors of their own
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_memory(error: BaseException) -> bool:
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return isinstance(error, MemoryError) or any(words in said for words in NO_MEMORY)


# -- usage


def _write_usage(error: Any) -> str:
    """Writes a usage error in one line."""
    setting = _advise_setting(error)
    message = str(error.message if setting else error.format_message()).strip()
    if message.startswith("Usage:"):  # the help, where nothing was asked for
        return message
    advice = setting or (f"see {error.ctx.command_path} --help" if error.ctx else "")
    return f"error: {' '.join(message.split()).rstrip('.')}" + (f"; {advice}" if advice else "")


def _advise_setting(error: Any) -> str:
    """Returns advice for an option that is a key of training configs, such as --epochs 3."""
    option = getattr(error, "option_name", "") or ""
    if not error.ctx or not any("--set" in parameter.opts for parameter in error.ctx.command.params):
        return ""
    from classy_vision.config import find_key
    from classy_vision.train.config import TrainConfig

    path = find_key(TrainConfig, option.lstrip("-").replace("-", "_"))
    return f"did you mean --set {path}={_find_value(option, sys.argv)}?" if option and path else ""


def _find_value(option: str, words: list[str]) -> str:
    """Returns what follows ``option`` on the command line."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option:
            return value if equals else next(iter(words[i + 1 : i + 2]), "VALUE")
    return "VALUE"
