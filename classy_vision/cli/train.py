"""``classy train``: a model from a config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from classy_vision.cli.failures import INTERRUPTED
from classy_vision.cli.options import ForceOption, option, training_packages
from classy_vision.config import ConfigError

Config = Annotated[Path | None, typer.Argument(metavar="CONFIG", help="The training config, in YAML or JSON.")]
_FOLDER = "runs/NAME of the config"
Output = Annotated[
    Path | None, option("--output -o", "FOLDER", "The run folder to write.", show_default=_FOLDER)
]
Resume = Annotated[Path | None, option("--resume", "RUN", "Resume this run folder where it stopped.")]
_SET = "Change a value of the config, e.g. schedule.epochs=3; with --resume, train for longer."
Overrides = Annotated[list[str] | None, option("--set", "KEY=VALUE", _SET)]
_DRY = "Check every file, the memory and a few batches, say how long an epoch takes, and write nothing."
DryRun = Annotated[bool, option("--dry-run", "", _DRY)]


def train(
    config: Config = None,
    output: Output = None,
    resume: Resume = None,
    force: ForceOption = False,
    overrides: Overrides = None,
    dry_run: DryRun = False,
) -> None:
    """Train a model with its heads, and write a run folder.

    Runs on one device as it is, and on several under torchrun or accelerate launch.
    """
    if resume is not None and (config or output or force or dry_run):
        raise ConfigError("--resume takes everything from the run folder: give it alone, or with --set")
    if config is None and resume is None:
        raise ConfigError("give a config to train, such as configs/digits.yaml, or --resume RUN")
    folder = Path(os.path.expanduser(resume or output or Path("runs", config.stem if config else "")))
    if resume is not None and not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is not a run folder: there is no such folder")
    settings = None
    if config is not None:  # checked before what takes seconds to import
        from classy_vision.train.config import load_settings

        settings = load_settings(config, overrides or ())
    with training_packages():
        from classy_vision.train import checkup, run
    try:
        if settings is None:
            run.resume(folder, overrides or ())
        elif dry_run:
            typer.echo("\n".join(checkup.check(settings, folder, force).lines))
        else:
            run.train(settings, folder, force)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            begun = Path(folder, "config.yaml").is_file()
            how = f"resume with: classy train --resume {folder}" if begun else "nothing was written"
            typer.echo(f"\nstopped; {how}", err=True)
        raise typer.Exit(INTERRUPTED) from None
