"""``classy heads``: join heads that were trained on the same trunk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from classy_vision.cli.command import HELP, Command, Group
from classy_vision.cli.options import OUTPUT, ForceOption, option
from classy_vision.config import ConfigError
from classy_vision.run_files import RUN_CONFIG

heads = typer.Typer(
    name="heads",
    cls=Group,
    help="Join heads that were trained on the same trunk.",
    no_args_is_help=True,
    add_completion=False,
    context_settings=HELP,
    rich_markup_mode=None,
)

_SOURCES = "Two or more models: run folders, folders of save_pretrained, or hf-hub:OWNER/NAME."
Sources = Annotated[list[str], typer.Argument(metavar="MODEL", help=_SOURCES)]
Output = Annotated[Path, option("--output -o", "FOLDER", "The folder of the model to write.", OUTPUT)]


@heads.callback()
def _heads() -> None:
    """Join heads that were trained on the same trunk."""


@heads.command("merge", cls=Command)
def merge(sources: Sources, output: Output, force: ForceOption = False) -> None:
    """Join the heads of models with the same trunk in one folder of a model.

    Each head gives the numbers that it gave before. Where trunks differ, the first tensor that does is named.
    """
    from classy_vision.resolve import TRAINED, Kind, resolve

    folder = Path(os.path.expanduser(output))
    if len(set(sources)) < 2:
        raise ConfigError(
            "give two models or more, each once, such as: classy heads merge runs/a runs/b -o both"
        )
    if (folder / RUN_CONFIG).is_file():
        raise ConfigError(f"{str(folder)!r} is a run folder: choose another --output")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not force)):
        raise ConfigError(
            f"{str(folder)!r} exists: choose another --output, or replace the model in it by --force"
        )
    for source in sources:  # before torch is imported
        resolve(source, TRAINED - {Kind.EXPORTED}, "classy heads merge")
    from classy_vision.identify.networks import load_model
    from classy_vision.models.merge import merge_heads

    merged = merge_heads({source: load_model(source, "classy heads merge") for source in sources})
    merged.save_pretrained(folder)
    names = [str(head.unique_id) for entries in merged.get_heads().values() for head in entries]
    typer.echo(f"heads {', '.join(names)} are in {folder}")
