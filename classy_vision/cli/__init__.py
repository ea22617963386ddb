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
from classy_vision.config import ConfigError

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
    """Runs the command line; an error of the user's is one message, not a traceback."""
    try:
        app()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # of what it prints to
        print(f"error: cannot print: {error.strerror}", file=sys.stderr)
        os._exit(1)  # the interpreter would try to print the rest
