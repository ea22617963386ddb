"""``classy compare``: models side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.failures import INTERRUPTED
from classy_vision.cli.options import (
    MEASURING,
    OUTPUT,
    WORDS,
    ChannelsLastOption,
    CompileOption,
    DtypeOption,
    ForceOption,
    Format,
    FormatOption,
    ImageSizeOption,
    option,
    training_packages,
)
from classy_vision.config import ConfigError

if TYPE_CHECKING:
    from classy_vision.study import Axes, Comparison, Row

FIGURES = (".svg", ".png")
TRAINING, RANKING = "Training", "Ranking"
Words = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help=f"Models, each {WORDS}; also names with wildcards ('regnet_y_*'), folders of configs, and tables "
        "that --output wrote (.csv, .parquet).",
    ),
]
_MEASURE = "Run the models, for their latency and throughput."
Measure = Annotated[bool, option("--measure", "", _MEASURE, MEASURING)]
_BATCH = "Estimate memory and measure latency for batches of this many inputs."
BatchSize = Annotated[int, option("--batch-size", "N", _BATCH, MEASURING, min=1)]
Device = Annotated[str, option("--device", "DEVICE", "Measure on this device: cpu or cuda.", MEASURING)]
_TRAIN = "Train every model as this training config says, with its heads."
Train = Annotated[Path | None, option("--train", "CONFIG", _TRAIN, TRAINING)]
_SET = "Change a value of --train, e.g. schedule.epochs=3; repeatable."
Overrides = Annotated[list[str] | None, option("--set", "KEY=VALUE", _SET, TRAINING)]
_RUNS = "Write run folders here, and read those that are finished."
Runs = Annotated[Path | None, option("--runs", "FOLDER", _RUNS, TRAINING, show_default="runs/compare")]
_SORT = "Print the best first by this column; '-latency' prints the worst first."
Sort = Annotated[str | None, option("--sort", "COLUMN", _SORT, RANKING)]
X = Annotated[str | None, option("--x", "COLUMN", "Take this column as the cost.", RANKING)]
Y = Annotated[str | None, option("--y", "COLUMN", "Take this column as the benefit.", RANKING)]
Plot = Annotated[Path | None, option("--plot", "FILE", "Draw --x against --y, as .svg or .png.", OUTPUT)]
_EDF = "Draw the distribution of errors by folder, as .svg or .png."
Edf = Annotated[Path | None, option("--edf", "FILE", _EDF, OUTPUT)]
_OUTPUT = "Write all numbers, as .csv, .parquet or .json."
Output = Annotated[Path | None, option("--output -o", "FILE", _OUTPUT, OUTPUT)]


def compare(
    models: Words,
    image_size: ImageSizeOption = None,
    measure: Measure = False,
    batch_size: BatchSize = 1,
    dtype: DtypeOption = "float32",
    device: Device = "cpu",
    compiled: CompileOption = False,
    channels_last: ChannelsLastOption = False,
    train: Train = None,
    overrides: Overrides = None,
    runs: Runs = None,
    sort: Sort = None,
    x: X = None,
    y: Y = None,
    plot: Plot = None,
    edf: Edf = None,
    output: Output = None,
    force: ForceOption = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Compare models: parameters, multiply-adds, activations, memory, latency and accuracy.

    Columns for --sort, --x and --y are params, macs, activations, memory, latency, throughput and accuracy. A
    model that fails does not stop the others, and makes the exit code 1. Runs are never replaced.
    """
    outputs = Outputs(sort, x, y, plot, edf, output, format.value)
    outputs.check(force)
    if (overrides or runs) and not train:
        raise ConfigError("--set and --runs are about training: give --train CONFIG as well")
    if train and image_size:
        raise ConfigError("--image-size: the images of --train have the size that its data.image_size says")
    comparison, known = _begin(models, train, overrides, image_size, batch_size, dtype, device)
    accuracies = [one.accuracies for one in comparison.candidates] + [row.accuracies for row in known]
    if edf and not (train or any(accuracies)):
        raise ConfigError("--edf needs accuracies: give --train CONFIG, run folders or a table with them")
    steps: list[Callable[[], None]] = [lambda: comparison.count(_show)]
    if measure:
        options: dict[str, Any] = {"compile": compiled, "channels_last": channels_last}
        steps.append(lambda: comparison.measure(_say, device, **options))
    if train:
        steps.append(lambda: comparison.train(Path(os.path.expanduser(runs or Path("runs", "compare"))), _say))
    interrupted = _run(steps)
    rows = [*known, *comparison.rows]
    written = outputs.write(rows, batch_size, dtype)
    if interrupted:
        typer.echo("stopped; the same command resumes: finished runs are read (files need --force)", err=True)
        raise typer.Exit(INTERRUPTED)
    if not written or any(row.failure for row in rows):
        raise typer.Exit(1)


def _begin(
    models: Sequence[str],
    train: Path | None,
    overrides: Sequence[str] | None,
    image_size: str | None,
    batch: int,
    dtype: str,
    device: str,
) -> tuple[Comparison, list[Row]]:
    """Finds what is compared, and the rows of tables that were written before."""
    from classy_vision.study import Recipe, find_candidates
    from classy_vision.study.files import READABLE, read_table

    tables = [word for word in models if Path(word).suffix in READABLE]
    known = [row for word in tables for row in read_table(Path(word))]
    words = [word for word in models if word not in tables]
    candidates = find_candidates(words) if words else []
    recipe = Recipe.read(train, overrides or ()) if train else None
    # What follows imports torch, which takes seconds.
    from classy_vision.cost.inputs import parse_size
    from classy_vision.cost.measure import check_device
    from classy_vision.cost.memory import check_options
    from classy_vision.study import Comparison

    check_options(batch, dtype, device)
    check_device(device)
    if train:
        with training_packages():
            from classy_vision.train import run as run
    return Comparison(candidates, parse_size(image_size), recipe, batch, dtype), known


def _run(steps: Sequence[Callable[[], None]]) -> bool:
    """Takes the steps, and tells whether Ctrl-C ended them."""
    try:
        for step in steps:
            step()
    except KeyboardInterrupt:
        return True
    finally:
        _show("")
    return False


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _show(text: str) -> None:
    """Shows what is counted, on a terminal, in a line that the next one replaces."""
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{text}", err=True, nl=False)


@dataclass(frozen=True)
class Outputs:
    """What is done with the rows."""

    sort: str | None
    x: str | None
    y: str | None
    plot: Path | None
    edf: Path | None
    output: Path | None
    format: str

    def check(self, force: bool) -> None:
        """Raises where something could not be written, before anything is run.

        Raises:
            ConfigError: there is no such column, or a file cannot be written.
        """
        from classy_vision.atomic import check_target
        from classy_vision.study.files import TABLES
        from classy_vision.study.row import check_column

        for where, name in (("--sort", self.sort), ("--x", self.x), ("--y", self.y)):
            if name:
                check_column(name.removeprefix("-") if where == "--sort" else name, where)
        for where, path, suffixes in (
            ("--plot", self.plot, FIGURES),
            ("--edf", self.edf, FIGURES),
            ("--output", self.output, TABLES),
        ):
            if path:
                check_target(path, suffixes, force=force, option=where)
                _check_package(path)

    def write(self, rows: Sequence[Row], batch: int, dtype: str) -> bool:
        """Prints the table and writes the files that are wanted; tells whether all of them were written."""
        from classy_vision.study import choose_axes, front
        from classy_vision.study.files import write_table
        from classy_vision.study.row import list_values, sort_rows
        from classy_vision.study.show import write_captions
        from classy_vision.text import dump

        rows = sort_rows(rows, self.sort) if self.sort else rows
        axes = choose_axes(rows, self.x, self.y)
        best = front(rows, axes)
        entries = list_values(rows, best)
        text = dump(entries, entries, self.format)
        if text is not None:
            print(text)
        else:
            self._print(rows, best, axes, write_captions(rows, batch, dtype))
        if self.output:
            write_table(self.output, rows, best)
        return self._draw(rows, axes)

    def _print(self, rows: Sequence[Row], best: Sequence[Row], axes: Axes, notes: Sequence[str]) -> None:
        from rich.console import Console

        from classy_vision.study.show import DISPENSABLE, FAILED, FRONT, make_grid
        from classy_vision.text import print_grid

        keep = {(self.sort or "").removeprefix("-"), *((axes.x, axes.y) if best else ())}
        dispensable = [name for name in DISPENSABLE if name not in keep]
        print_grid(make_grid(rows, best), dispensable, "--output FILE has all columns.")
        console = Console(highlight=False)
        for row in filter(lambda row: row.failure, rows):
            console.print(f"{FAILED} {row.name}: {row.failure}", style="red", markup=False)
        for line in ([f"{FRONT} Pareto front: {axes}."] if best else []) + list(notes):
            console.print(line, style="dim")

    def _draw(self, rows: Sequence[Row], axes: Axes) -> bool:
        if not (self.plot or self.edf):
            return True
        from classy_vision.study.edf import draw_edf
        from classy_vision.study.figure import save
        from classy_vision.study.scatter import draw_scatter

        try:
            if self.plot:
                save(draw_scatter(rows, axes), self.plot)
            if self.edf:
                save(draw_edf(rows), self.edf)
        except ConfigError as error:  # the numbers for it are missing, and the table says why
            _say(f"error: {error}")
            return False
        return True


def _check_package(path: Path) -> None:
    package = {".parquet": "pyarrow", ".svg": "matplotlib", ".png": "matplotlib"}.get(path.suffix)
    if package and find_spec(package) is None:
        raise ConfigError(f"{path} needs {package}: pip install 'classy-vision-models[train]'")
