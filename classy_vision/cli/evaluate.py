"""``classy evaluate``: how good a model is on images or videos with labels."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from classy_vision.cli.predict import BATCH, BATCH_SIZE, DEVICE, WORKERS, check_model
from classy_vision.cli.train import INTERRUPTED, training_package
from classy_vision.config import ConfigError

if TYPE_CHECKING:
    from classy_vision.evaluate import Evaluation


class EvaluationFormat(str, Enum):
    """How metrics are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class Split(str, Enum):
    """The parts of data."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A finished run folder, a folder of save_pretrained, a file of classy export or published "
            "weights.",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="A folder with a folder per class, or a CSV or Parquet table; by default the run's own data.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The folder to write.", show_default="evaluations/NAME of the model"),
    ] = None,
    split: Annotated[
        Split | None,
        typer.Option(help="Which part of the data.", show_default="validation; all of data that are not split"),
    ] = None,
    heads: Annotated[
        list[str] | None, typer.Option("--head", metavar="HEAD", help="Evaluate this head; repeatable.")
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--target", metavar="HEAD=COLUMN", help="Where the labels of a head are, if not as in training."
        ),
    ] = None,
    format: Annotated[
        EvaluationFormat, typer.Option(help="How to print the metrics; csv has those of each class.")
    ] = EvaluationFormat.TABLE,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the machine code in a package of AOTInductor.")
    ] = False,
    device: Annotated[str | None, DEVICE] = None,
    batch_size: Annotated[int, BATCH_SIZE] = BATCH,
    workers: Annotated[int | None, WORKERS] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an evaluation that is there.")] = False,
) -> None:
    """Measure a model on images or videos with labels.

    Writes a folder with metrics by head and class, every prediction, confusion matrices and the worst
    mistakes. A file that cannot be read is left out of the metrics, and makes the exit code 1.
    """
    check_model(model)
    package = training_package("evaluate", "evaluation")
    place = output or Path("evaluations", os.path.basename(os.path.normpath(model)) or "model")
    try:
        with _progress() as progress:
            found = package.evaluate(
                os.path.expanduser(model),
                data,
                output=place,
                split=split.value if split else None,
                heads=heads,
                targets=_columns(targets or ()),
                device=device,
                batch_size=batch_size,
                workers=workers,
                trust=trust,
                force=force,
                progress=progress,
            )
    except KeyboardInterrupt:
        typer.echo("stopped; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _PRINT[format](found)
    for name, error in list(found.errors.items())[:10]:
        typer.echo(f"cannot read {name}: {error}", err=True)
    if found.errors:
        typer.echo(f"{len(found.errors)} could not be read, and are not in the metrics", err=True)
        raise typer.Exit(1)


def _columns(given: list[str] | tuple[()]) -> dict[str, str]:
    for one in given:
        if not all(one.partition("=")):
            raise ConfigError(f"--target takes HEAD=COLUMN, such as species=label, not {one!r}")
    return {one.partition("=")[0]: one.partition("=")[2] for one in given}


@contextmanager
def _progress() -> Iterator[Callable[[int], Callable[[int], None]] | None]:
    """A bar on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:

        def begin(total: int) -> Callable[[int], None]:
            task = bar.add_task("evaluating", total=total)
            return lambda done: bar.update(task, completed=done)

        yield begin


# -- what is printed


def _print_table(found: Evaluation) -> None:
    print(f"{found.model} on {found.data} ({found.split}): {found.count} read")
    for head, scores in found.heads.items():
        print(f"\n{head}: {scores.kind}, {scores.count} labels")
        for name, value in scores.metrics.items():
            print(f"  {name:18} {'not defined' if value is None else f'{value:.4f}'}")
    print(f"\nthe evaluation is in {found.folder}")


def _print_json(found: Evaluation) -> None:
    print(json.dumps(found.as_dict(), indent=2))


def _print_csv(found: Evaluation) -> None:
    assert found.folder is not None
    with (found.folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        csv.writer(sys.stdout, lineterminator="\n").writerows(csv.reader(file))


_PRINT: dict[EvaluationFormat, Callable[[Evaluation], None]] = {
    EvaluationFormat.TABLE: _print_table,
    EvaluationFormat.JSON: _print_json,
    EvaluationFormat.CSV: _print_csv,
}
