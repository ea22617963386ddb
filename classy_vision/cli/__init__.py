"""The ``classy`` command: one file per subcommand."""

from __future__ import annotations

import os
import sys

import typer

from classy_vision.cli.compare import compare
from classy_vision.cli.evaluate import evaluate
from classy_vision.cli.export import export
from classy_vision.cli.list import list_models
from classy_vision.cli.predict import predict
from classy_vision.cli.sample import sample
from classy_vision.cli.schema import schema
from classy_vision.cli.show import show
from classy_vision.cli.train import train
from classy_vision.cli.weights import weights
from classy_vision.config import ConfigError, OperationError, shown, system_error

app = typer.Typer(
    name="classy",
    help="One trunk of named blocks, and heads that read any of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.command("list")(list_models)
app.command()(show)
app.command()(compare)
app.command()(sample)
app.command()(schema)
app.command()(train)
app.command()(predict)
app.command()(evaluate)
app.command()(export)
app.add_typer(weights)


def main() -> None:
    """Runs the command line; an error is one message, not a traceback.

    The exit code is 2 for what was asked for, and 1 for what failed while it ran.
    """
    try:
        app()
    except OperationError as error:
        _fail(str(error), 1)
    except ConfigError as error:
        _fail(str(error), 2)
    except OSError as error:
        if error.filename is None:  # of what it prints to
            print(f"error: cannot print: {error.strerror}", file=sys.stderr)
            os._exit(1)  # the interpreter would try to print the rest
        told = system_error(error, shown(str(error.filename)))
        _fail(str(told), 1 if isinstance(told, OperationError) else 2)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail("there is not enough memory", 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch, for the CPU or a GPU, could not have memory."""
    words = ("allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def _fail(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
