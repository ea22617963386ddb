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

from classy_vision.cli.train import INTERRUPTED, training_package
from classy_vision.config import ConfigError

if TYPE_CHECKING:
    from classy_vision.study import Axes, Comparison, Row

FIGURES = (".svg", ".png")
UNBOUNDED = 1000
"""Columns of a file or a pipe."""


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="Names, also of published weights or with wildcards ('regnet_y_*'); YAML or JSON files; "
            "folders of them; run folders; tables that --output wrote (.csv, .parquet).",
        ),
    ],
    measure: Annotated[
        bool, typer.Option("--measure", help="Run the models, for their latency and throughput.")
    ] = False,
    train: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="Train every model as this training config says, with its heads."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of --train, e.g. schedule.epochs=3."),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the run folders are.", show_default="runs/compare"),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Best first by this column; '-latency' for the worst first."),
    ] = None,
    x: Annotated[str | None, typer.Option("--x", metavar="COLUMN", help="What a model costs.")] = None,
    y: Annotated[str | None, typer.Option("--y", metavar="COLUMN", help="What it is worth.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw --x against --y, as .svg or .png.")
    ] = None,
    edf: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the distribution of errors by folder, as .svg or .png."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all numbers, as .csv, .parquet or .json.")
    ] = None,
    input_size: Annotated[
        str | None,
        typer.Option(metavar="H[xW]", help="Height and width of all inputs, such as 256 or 256x192."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs that memory and latency are of.")] = 1,
    device: Annotated[str, typer.Option(help="Where to measure: cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of weights and inputs, for memory and latency.")] = "float32",
    compiled: Annotated[bool, typer.Option("--compile", help="Measure after torch.compile.")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Measure with channels in the last place in memory.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there; never runs.")] = False,
) -> None:
    """Compare models: parameters, multiply-adds, activations, memory, latency and accuracy.

    Columns for --sort, --x and --y are params, macs, activations, memory, latency, throughput and
    accuracy. A model that fails does not stop the others: it says why, and the exit code is 1.
    """
    outputs = Outputs(sort, x, y, plot, edf, output)
    outputs.check(force)
    if (overrides or runs) and not train:
        raise ConfigError("--set and --runs are about training: give --train CONFIG as well")
    if train and input_size:
        raise ConfigError("--input-size: the images of --train have the size that its data.image_size says")
    comparison, known = _begin(models, train, overrides, input_size, batch, dtype, device)
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
    written = outputs.write(rows, batch, dtype)
    if interrupted:
        typer.echo("stopped; the same command goes on: finished runs are read (files need --force)", err=True)
        raise typer.Exit(INTERRUPTED)
    if not written or any(row.failure for row in rows):
        raise typer.Exit(1)


def _begin(
    models: Sequence[str],
    train: Path | None,
    overrides: Sequence[str] | None,
    input_size: str | None,
    batch: int,
    dtype: str,
    device: str,
) -> tuple[Comparison, list[Row]]:
    """What is compared, and the rows of tables that were written before."""
    from classy_vision.cost.inputs import parse_size
    from classy_vision.cost.measure import check_device
    from classy_vision.cost.memory import check_options
    from classy_vision.study import Comparison, Recipe, find_candidates
    from classy_vision.study.files import READABLE, read_table

    check_options(batch, dtype, device)
    check_device(device)
    if train:
        training_package()
    recipe = Recipe.read(train, overrides or ()) if train else None
    tables = [word for word in models if Path(word).suffix in READABLE]
    known = [row for word in tables for row in read_table(Path(word))]
    words = [word for word in models if word not in tables]
    candidates = find_candidates(words) if words else []
    return Comparison(candidates, parse_size(input_size), recipe, batch, dtype), known


def _run(steps: Sequence[Callable[[], None]]) -> bool:
    """Takes the steps; whether Ctrl-C ended them."""
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
    """Says what is counted, on a terminal, in a line that the next one takes the place of."""
    if sys.stderr.isatty():
        typer.echo(f"\r\x1b[K{text}", err=True, nl=False)


@dataclass(frozen=True)
class Outputs:
    """What becomes of the rows."""

    sort: str | None
    x: str | None
    y: str | None
    plot: Path | None
    edf: Path | None
    output: Path | None

    def check(self, force: bool) -> None:
        """Raises where something could not be written, before there is anything to write.

        Raises:
            ConfigError: a column or a file that cannot be.
        """
        from classy_vision.study.files import TABLES
        from classy_vision.study.row import column
        from classy_vision.weights.files import check_target

        for option, name in (("--sort", self.sort), ("--x", self.x), ("--y", self.y)):
            if name:
                column(name.removeprefix("-") if option == "--sort" else name, option)
        for option, path, suffixes in (
            ("--plot", self.plot, FIGURES),
            ("--edf", self.edf, FIGURES),
            ("--output", self.output, TABLES),
        ):
            if path:
                check_target(path, suffixes, force=force, option=option)
                _check_package(path)

    def write(self, rows: Sequence[Row], batch: int, dtype: str) -> bool:
        """Prints the table, and writes the files that are wanted; whether all of them are there."""
        from rich.console import Console

        from classy_vision.study import choose_axes, front
        from classy_vision.study.files import write_table
        from classy_vision.study.row import ordered
        from classy_vision.study.show import FAILED, FRONT, captions, grid

        rows = ordered(rows, self.sort) if self.sort else rows
        axes = choose_axes(rows, self.x, self.y)
        best = front(rows, axes)
        console = Console(highlight=False)
        is_bounded = console.is_terminal or "COLUMNS" in os.environ
        keep = {(self.sort or "").removeprefix("-"), *((axes.x, axes.y) if best else ())}
        shown = grid(rows, best).fitted(console.width if is_bounded else UNBOUNDED, keep)
        Console(highlight=False, width=max(shown.width, console.width)).print(shown.table())
        if shown.left_out:
            left = ", ".join(shown.left_out)
            console.print(f"Too narrow for: {left}. --output FILE has all columns.", style="dim")
        for row in filter(lambda row: row.failure, rows):
            console.print(f"{FAILED} {row.name}: {row.failure}", style="red", markup=False)
        if best:
            console.print(f"{FRONT} Pareto front: {axes}.", style="dim")
        for line in captions(rows, batch, dtype):
            console.print(line, style="dim")
        if self.output:
            write_table(self.output, rows, best)
        return self._draw(rows, axes)

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
