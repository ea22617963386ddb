"""``classy train``: a model from a config."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from classy_vision.config import ConfigError

INTERRUPTED = 130
"""What a shell expects of a process that Ctrl-C ended."""


def train(
    config: Annotated[Path | None, typer.Argument(help="The job, in YAML or JSON.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="The run folder.", show_default="runs/NAME of the config")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with this run folder where it was stopped."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is there.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a value, e.g. schedule.epochs=3; with --resume, that trains a run for longer.",
        ),
    ] = None,
) -> None:
    """Train a model with its heads, and leave a run folder.

    Runs on one device as it is, and on several under torchrun or accelerate launch.
    """
    if resume is not None and (config or output or force):
        raise ConfigError("--resume takes everything from the run folder: give it alone, or with --set")
    if config is None and resume is None:
        raise ConfigError("give a config to train, such as configs/digits.yaml, or --resume RUN")
    folder = Path(os.path.expanduser(resume or output or Path("runs", config.stem if config else "")))
    if resume is not None and not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is no run folder: there is no such folder")
    settings = None if config is None else _settings(config, overrides or ())
    package = training_package()
    try:
        if settings is None:
            package.resume(folder, overrides or ())
        else:
            package.train(settings, folder, force)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            begun = Path(folder, "config.yaml").is_file()
            how = f"go on with: classy train --resume {folder}" if begun else "nothing was written"
            typer.echo(f"\nstopped; {how}", err=True)
        raise typer.Exit(INTERRUPTED) from None


def _settings(config: Path, overrides: Sequence[str]) -> Any:
    """The job, checked before what takes seconds to import."""
    from classy_vision.train.config import load_settings

    return load_settings(config, overrides)


def training_package(name: str = "train", module: str = "run") -> Any:
    """A package of this library whose packages are an extra and slow to import.

    Args:
        name: the package's.
        module: the file in it that is used.

    Raises:
        ConfigError: they are not installed.
    """
    try:
        importlib.import_module(f"classy_vision.{name}.{module}")
        return importlib.import_module(f"classy_vision.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"this command needs {error.name}: pip install 'classy-vision-models[train]'"
        ) from None
    except RuntimeError as error:  # of a package that imports torchvision where there is one
        raise ConfigError(
            f"cannot import what training needs: {error}. If that names torchvision, it is not the "
            f"one for torch {version('torch')}: reinstall or remove it"
        ) from None
