"""``classy train``: a model from a config."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from classy_vision.cli.failures import INTERRUPTED
from classy_vision.cli.memory import keep_memory
from classy_vision.cli.options import ForceOption, option, training_packages
from classy_vision.config import ConfigError

if TYPE_CHECKING:
    from classy_vision.train.config import TrainConfig

Config = Annotated[Path | None, typer.Argument(metavar="CONFIG", help="The training config, in YAML or JSON.")]
_FOLDER = "runs/NAME of the config"
Output = Annotated[
    Path | None, option("--output -o", "FOLDER", "The run folder to write.", show_default=_FOLDER)
]
Resume = Annotated[Path | None, option("--resume", "RUN", "Resume this run folder where it stopped.")]
_SET = "Change a value of the config, e.g. schedule.epochs=3; with --resume, train for longer."
Overrides = Annotated[list[str] | None, option("--set", "KEY=VALUE", _SET)]
_SEEDS = "Train with N seeds, in FOLDER/seed0 and so on; finished runs are kept, and others resumed."
Seeds = Annotated[int | None, option("--seeds", "N", _SEEDS, min=2)]
_FOLDS = "Train once for each of N parts of the data, which is held out, in FOLDER/fold0 and so on."
Folds = Annotated[int | None, option("--folds", "N", _FOLDS, min=2)]
PLANNING = "Before training, without a run folder"
_DRY = "Check every file, the memory and a few batches, and say how long an epoch takes."
DryRun = Annotated[bool, option("--dry-run", "", _DRY, PLANNING)]
_RATE = "Make steps at learning rates that rise, and suggest one."
FindRate = Annotated[bool, option("--find-rate", "", _RATE, PLANNING)]
_HEADS = "Compare the gradients of heads in each block, and say after which they part."
AnalyseHeads = Annotated[bool, option("--analyse-heads", "", _HEADS, PLANNING)]
_PLOT = "Draw what --find-rate or --analyse-heads finds, as .png or .svg."
Plot = Annotated[Path | None, option("--plot", "FILE", _PLOT, PLANNING)]


def train(
    config: Config = None,
    output: Output = None,
    resume: Resume = None,
    force: ForceOption = False,
    overrides: Overrides = None,
    seeds: Seeds = None,
    folds: Folds = None,
    dry_run: DryRun = False,
    find_rate: FindRate = False,
    analyse_heads: AnalyseHeads = False,
    plot: Plot = None,
) -> None:
    """Train a model with its heads, and write a run folder.

    Runs on one device as it is, and on several under torchrun or accelerate launch.
    """
    plan = _Plan(seeds, folds, dry_run, find_rate, analyse_heads, plot)
    if resume is not None and (config or output or force or any(plan)):
        raise ConfigError("--resume takes everything from the run folder: give it alone, or with --set")
    if config is None and resume is None:
        raise ConfigError("give a config to train, such as configs/digits.yaml, or --resume RUN")
    plan.check(force)
    folder = Path(os.path.expanduser(resume or output or Path("runs", config.stem if config else "")))
    if resume is not None and not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is not a run folder: there is no such folder")
    settings = None
    if config is not None:  # checked step by step, as what checks the rest takes seconds to import
        from classy_vision.train.config import load_settings

        settings = load_settings(config, overrides or ())
        with training_packages():
            from classy_vision.train.job import check_network
        check_network(settings)
    keep_memory()
    with training_packages():
        from classy_vision.train import run
    try:
        if settings is None:
            run.resume(folder, overrides or ())
        elif any(plan):
            _tell(plan.find(settings, folder, force))
        else:
            run.train(settings, folder, force)
    except KeyboardInterrupt:
        _tell(["", f"stopped; {plan.describe_rest(folder, force)}"], err=True)
        raise typer.Exit(INTERRUPTED) from None


def _tell(lines: Iterable[str], err: bool = False) -> None:
    """Prints lines, from the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo("\n".join(lines), err=err)


class _Plan(NamedTuple):
    """What is wanted in place of training one run."""

    seeds: int | None
    folds: int | None
    dry_run: bool
    find_rate: bool
    analyse_heads: bool
    plot: Path | None

    @property
    def wanted(self) -> list[str]:
        """The options that were given."""
        given = {
            **{"--seeds": self.seeds, "--folds": self.folds, "--dry-run": self.dry_run},
            **{"--find-rate": self.find_rate, "--analyse-heads": self.analyse_heads},
        }
        return [name for name, value in given.items() if value]

    def check(self, force: bool) -> None:
        """Raises a ConfigError where options do not go together, or the picture cannot be written."""
        if len(self.wanted) > 1:
            raise ConfigError(f"{' and '.join(self.wanted)} were given together: choose one")
        if self.plot is None:
            return
        if not self.find_rate and not self.analyse_heads:
            raise ConfigError("--plot draws what --find-rate or --analyse-heads finds: give one of them")
        from classy_vision.atomic import check_target

        check_target(self.plot, (".png", ".svg"), force=force, option="--plot")

    def find(self, settings: TrainConfig, folder: Path, force: bool) -> Iterable[str]:
        """Does what is wanted, and says what was found."""
        with training_packages():
            from classy_vision.train import checkup, head_gradients, rates, repeat
        if self.seeds or self.folds:
            repeated = repeat.train_seeds if self.seeds else repeat.train_folds
            spreads = repeated(settings, folder, self.seeds or self.folds or 0, force)
            return [f"{name}: {spread}" for name, spread in spreads.items()]
        if self.dry_run:
            return checkup.check(settings, folder, force).lines
        drawn = [] if self.plot is None else [f"drawn: {self.plot}"]
        if self.find_rate:
            return [str(rates.find_rate(settings, self.plot)), *drawn]
        return [*head_gradients.analyse_heads(settings, self.plot).lines(), *drawn]

    def describe_rest(self, folder: Path, force: bool) -> str:
        """What is left of a command that was stopped."""
        if self.seeds or self.folds:
            return "the same command without --force resumes it" if force else "the same command resumes it"
        begun = Path(folder, "config.yaml").is_file() and not any(self)
        return f"resume with: classy train --resume {folder}" if begun else "nothing was written"
