"""``classy evaluate``: how good a model is on images or videos with labels."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from classy_vision.cli.failures import INTERRUPTED
from classy_vision.cli.options import (
    BATCH_SIZE,
    TRAINED,
    BatchSizeOption,
    DeviceOption,
    ForceOption,
    Format,
    FormatOption,
    TrustOption,
    WorkersOption,
    option,
    training_packages,
)
from classy_vision.config import ConfigError

if TYPE_CHECKING:
    from classy_vision.evaluate.evaluation import Evaluation


class Split(str, Enum):
    """The parts of data."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


Word = Annotated[str, typer.Argument(metavar="MODEL", help=f"The model: {TRAINED}.")]
Data = Annotated[
    str | None,
    typer.Argument(
        metavar="DATA",
        help="A folder with a folder per class, or a CSV or Parquet table; by default the data of the run.",
    ),
]
_FOLDER = "evaluations/NAME of the model"
Output = Annotated[Path | None, option("--output -o", "FOLDER", "The folder to write.", show_default=_FOLDER)]
_PARTS, _PART = "train|validation|test", "validation; everything if data are not split"
SplitOption = Annotated[
    Split | None, option("--split", _PARTS, "Evaluate this part of the data.", show_default=_PART)
]
Heads = Annotated[list[str] | None, option("--head", "HEAD", "Evaluate this head; repeatable.")]
_TARGET = "Read the labels of a head from this column, if not as in training; repeatable."
Targets = Annotated[list[str] | None, option("--target", "HEAD=COLUMN", _TARGET)]


def evaluate(
    model: Word,
    data: Data = None,
    output: Output = None,
    split: SplitOption = None,
    heads: Heads = None,
    targets: Targets = None,
    trust: TrustOption = False,
    device: DeviceOption = None,
    batch_size: BatchSizeOption = BATCH_SIZE,
    workers: WorkersOption = None,
    force: ForceOption = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Evaluate a model on images or videos with labels.

    Writes a folder with metrics by head and class, every prediction, confusion matrices and the worst
    mistakes. A file that cannot be read is left out of the metrics, and makes the exit code 1.
    """
    from classy_vision.resolve import TRAINED, resolve

    resolve(model, TRAINED, "classy evaluate")
    with training_packages():
        from classy_vision.evaluate import evaluation
    place = output or Path("evaluations", os.path.basename(os.path.normpath(model)) or "model")
    try:
        with _show_progress() as progress:
            found = evaluation.evaluate(
                os.path.expanduser(model),
                data,
                output=place,
                split=split.value if split else None,
                heads=heads,
                targets=_read_columns(targets or ()),
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
    _print(found, format)
    _print_errors(found)


def _print_errors(found: Evaluation) -> None:
    for name, error in list(found.errors.items())[:10]:
        typer.echo(f"cannot read {name}: {error}", err=True)
    if found.errors:
        typer.echo(f"{found.unreadable} could not be read, and are not in the metrics", err=True)
        raise typer.Exit(1)


def _read_columns(given: list[str] | tuple[()]) -> dict[str, str]:
    for one in given:
        if not all(one.partition("=")):
            raise ConfigError(f"--target takes HEAD=COLUMN, such as species=label, not {one!r}")
    return {one.partition("=")[0]: one.partition("=")[2] for one in given}


@contextmanager
def _show_progress() -> Iterator[Callable[[int], Callable[[int], None]] | None]:
    """Shows a bar on a terminal."""
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


def _print(found: Evaluation, format: Format) -> None:
    if format is Format.JSON:
        print(json.dumps(found.as_dict(), indent=2))
        return
    if format is Format.CSV and found.folder is not None:
        print((found.folder / "metrics.csv").read_bytes().decode(), end="")
        return
    print(f"{found.model} on {found.data} ({found.split}): {found.count} read")
    for head, scores in found.heads.items():
        print(f"\n{head}: {scores.kind}, {scores.count} labels")
        for name, value in scores.metrics.items():
            print(f"  {name:18} {'not defined' if value is None else f'{value:.4f}'}")
    print(f"\nthe evaluation is in {found.folder}")
