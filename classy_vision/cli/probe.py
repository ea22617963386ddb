"""``classy probe``: which block of a trunk to read for a task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.failures import INTERRUPTED
from classy_vision.cli.options import (
    TRAINED,
    DeviceOption,
    EmbedBatchOption,
    Format,
    FormatOption,
    WorkersOption,
    option,
    training_packages,
)
from classy_vision.cli.progress import show_progress

if TYPE_CHECKING:
    from classy_vision.embed.readings import Probe

Word = Annotated[str, typer.Argument(metavar="MODEL", help=f"The model: {TRAINED}; not an exported file.")]
_DATA = "A folder with a folder per class, a CSV or Parquet table, or 'digits' or 'scenes'."
Data = Annotated[str, typer.Argument(metavar="DATA", help=_DATA)]
_FOLDER = "probes/NAME of the model"
Output = Annotated[Path | None, option("--output -o", "FOLDER", "The folder to write.", show_default=_FOLDER)]
_LABELS = "Read the classes from this column; repeatable."
Columns = Annotated[
    list[str] | None, option("--column", "COLUMN", _LABELS, show_default="label, or the only one")
]
Blocks = Annotated[
    list[str] | None, option("--block", "BLOCK", "Probe this block; repeatable.", show_default="all blocks")
]
_POOLING = "Pool blocks so: mean, max, gem, token or token_and_mean; repeatable."
_WHERE = "mean, and those with a token where there is one"
Poolings = Annotated[list[str] | None, option("--pooling", "POOLING", _POOLING, show_default=_WHERE)]


def probe(
    model: Word,
    data: Data,
    output: Output = None,
    columns: Columns = None,
    blocks: Blocks = None,
    pooling: Poolings = None,
    device: DeviceOption = None,
    batch_size: EmbedBatchOption = None,
    workers: WorkersOption = None,
    format: FormatOption = Format.TABLE,
) -> None:
    """Measure how well each block of a trunk tells classes apart, and what it costs.

    One pass over the data gives the features, on which nearest neighbours and linear classifiers are fitted for
    each block and pooling. The folder gets a table, a picture, and a config that trains a head on the cheapest
    block within one point of the best.
    """
    from classy_vision.resolve import TRAINED, Kind, resolve

    resolve(model, TRAINED - {Kind.EXPORTED}, "classy probe")
    place = output or Path("probes", os.path.basename(os.path.normpath(model)) or "model")
    with training_packages():
        from classy_vision.embed.probe import probe
    options: dict[str, Any] = {"columns": columns or (), "blocks": blocks or (), "pooling": pooling or ()}
    options |= {"device": device, "batch_size": batch_size, "workers": workers}
    try:
        with show_progress() as progress:
            found = probe(model, data, place, progress=progress, **options)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command uses the features that are written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    _print(found, format)


def _print(found: Probe, format: Format) -> None:
    from classy_vision.embed.probe import CONFIG, RESULT, TABLE
    from classy_vision.text import human

    if format is not Format.TABLE:
        file = found.folder / (RESULT if format is Format.JSON else TABLE)
        print(file.read_bytes().decode(), end="")
        return
    columns = dict.fromkeys(one.column for one in found.readings)
    for column in columns:
        front, cheapest = found.front(column), found.cheapest(column)
        readings = [one for one in found.readings if one.column == column]
        wide = max(len(one.block) for one in readings)
        print(f"{column}: accuracy on what is held out, * on the Pareto front")
        print(f"  {'block':{wide}}  {'pooling':14}  {'channels':>8}  {'MACs':>7}  {'k-NN':>7}  {'linear':>7}")
        for one in readings:
            mark = "*" if one in front else " "
            numbers = f"{one.channels:8}  {human(one.macs):>7}  {one.knn:7.2%}  {one.linear:7.2%}"
            print(f"{mark} {one.block:{wide}}  {one.pooling:14}  {numbers}")
        print(f"the cheapest within one point of the best: {cheapest.block}, {cheapest.pooling}\n")
    print(f"classy train {found.folder / CONFIG} trains a head there")
