"""The ``classy`` command: one file per subcommand, which is imported when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any

import typer

from classy_vision.cli.command import HELP, Command, Group

COMMANDS = {
    "list": "List the presets with their parameters, multiply-adds and activations.",
    "show": "Show a model block by block: shapes, parameters, multiply-adds, activations, memory and time.",
    "compare": "Compare models: parameters, multiply-adds, activations, memory, latency and accuracy.",
    "sample": "Draw models from a design space, and write each as a config.",
    "schema": "Print the JSON Schema (2020-12) of model and training configs.",
    "train": "Train a model with its heads, and write a run folder.",
    "heads": "Join heads that were trained on the same trunk.",
    "predict": "Print the most probable labels of images or videos, and their probabilities, for each head.",
    "evaluate": "Evaluate a model on images or videos with labels.",
    "embed": "Write features of blocks and outputs of heads for a collection of images or videos.",
    "probe": "Measure how well each block of a trunk tells classes apart, and what it costs.",
    "neighbours": "Find near duplicates, outliers, labels that may be wrong, and neighbours of images.",
    "export": "Write a model with its heads to a file, and check it by running it.",
    "weights": "List, show and convert weights.",
}
"""The commands, each a file with a function of its name, and the first sentence of its help."""
FUNCTIONS = {"list": "list_models"}
"""Those that would hide a name of Python's."""


class Commands(Group):
    """The subcommands; what one of them needs is imported when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS]  # "list" is the submodule of that name, once it is imported

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        found = getattr(import_module(f"{__name__}.{cmd_name}"), FUNCTIONS.get(cmd_name, cmd_name))
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(add_completion=False, rich_markup_mode=None)
            alone.command(cmd_name, cls=Command, context_settings=HELP)(found)
            found = alone
        return typer.main.get_command(found)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # names that are offered for a wrong one
        return super().resolve_command(ctx, args)

    def summaries(self, ctx: Any) -> list[tuple[str, str]]:
        return [*COMMANDS.items()]


app = typer.Typer(
    name="classy",
    cls=Commands,
    context_settings=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from classy_vision import __version__

        print(f"classy {__version__}")
        raise typer.Exit


@app.callback()
def _classy(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit."),
    ] = False,
) -> None:
    """Build, measure, train and export models: one trunk of named blocks, and heads that read any of them."""


def main() -> None:
    """Runs the command line.

    What goes wrong is one message, not a traceback. The exit code is 2 if the command was wrong,
    1 if it failed while it ran, and 130 after Ctrl-C.
    """
    from classy_vision.cli.failures import run

    run(app)
