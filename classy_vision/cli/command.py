"""How commands show their help, and which options they still take by an old name."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from typer.core import TyperCommand, TyperGroup

from classy_vision.errors import ConfigError

RENAMED = {
    "--json": ("--format", "json"),
    "--csv": ("--format", "csv"),
    "--input-size": ("--image-size",),
    "--batch": ("--batch-size",),
}
"""Options of the version before, and how they are written now."""
HELP = {"help_option_names": ["-h", "--help"]}


class Command(TyperCommand):
    """A command whose options are in panels, and which takes options by their old names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        taken = {name for parameter in self.params for name in parameter.opts}
        return super().parse_args(ctx, list(_rename(args, taken)))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for title, rows in self.panels(ctx).items():
            with formatter.section(title):
                formatter.write_dl(rows)

    def panels(self, ctx: Any) -> Mapping[str, list[tuple[str, str]]]:
        """Arguments and options, and what they mean, by the title of their panel."""
        found: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            is_option = parameter.param_type_name == "option"
            title = getattr(parameter, "rich_help_panel", None) or "Options" if is_option else "Arguments"
            name = record[0] if is_option else _name_argument(parameter)
            found.setdefault(title, []).append((name, record[1]))
        return {title: rows for title, rows in found.items() if rows}


class Group(TyperGroup):
    """Commands, each with the first sentence of its help in full."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(self.summaries(ctx))

    def summaries(self, ctx: Any) -> list[tuple[str, str]]:
        """The commands, and what each does."""
        return [(name, _summarize(self.get_command(ctx, name))) for name in self.list_commands(ctx)]


def _summarize(command: Any) -> str:
    return " ".join(str(command.help).split("\n\n")[0].split())


def _name_argument(parameter: Any) -> str:
    return f"{parameter.metavar or parameter.name.upper()}{'...' if parameter.nargs != 1 else ''}"


def _rename(args: list[str], taken: set[str]) -> Iterator[str]:
    """Replaces options of the version before, and says so."""
    if {"--json", "--csv"} <= {*args} - taken:
        raise ConfigError("--json and --csv were given together: choose one")
    for index, arg in enumerate(args):
        if arg == "--":
            yield from args[index:]
            return
        name, equals, value = arg.partition("=")
        new = RENAMED.get(name, ())
        if not new or name in taken or new[0] not in taken:
            yield arg
            continue
        print(f"warning: {name} is now {' '.join(new)}; the old name will be removed", file=sys.stderr)
        yield from new
        yield from [value] if equals else []
