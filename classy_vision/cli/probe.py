"""``classy probe``: which block of a trunk to read for a task."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.failures import INTERRUPTED
from classy_vision.cli.options import (
    RUNNING,
    DeviceOption,
    ForceOption,
    Format,
    FormatOption,
    option,
    training_packages,
)
from classy_vision.cli.progress import show_progress

if TYPE_CHECKING:
    from classy_vision.embed.readings import Probe

_MODEL = (
    "The model: a run folder, a folder of save_pretrained, published weights, a file of weights, or "
    "hf-hub:OWNER/NAME."
)
Word = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)]
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
_ATTENTIVE = (
    "Train an attention pool as well, on the tokens or maps of each block. These are kept on disk, and take "
    "far more space than pooled features."
)
Attentive = Annotated[bool, option("--attentive", "", _ATTENTIVE)]
_BATCH = "Give the model this many images or clips at once, as the training does that is recommended."
BatchOption = Annotated[
    int | None, option("--batch-size", "N", _BATCH, RUNNING, min=1, show_default="64, less for few samples")
]

_WORKERS = "Read files in this many processes."
_HOW_MANY = "one per processor, at most 4"
Workers = Annotated[int | None, option("--workers", "N", _WORKERS, RUNNING, min=0, show_default=_HOW_MANY)]


def probe(
    model: Word,
    data: Data,
    output: Output = None,
    columns: Columns = None,
    blocks: Blocks = None,
    pooling: Poolings = None,
    attentive: Attentive = False,
    device: DeviceOption = None,
    batch_size: BatchOption = None,
    workers: Workers = None,
    force: ForceOption = False,
    format: FormatOption = Format.TABLE,
) -> None:
    """Measure how well each block of a trunk tells classes apart, and what it costs.

    One pass over the data gives the features, on which nearest neighbours, linear classifiers and perhaps
    attentive probes are fitted for each block and pooling. The folder gets a table, a picture, and a config
    that trains a head on the cheapest block within one point of the best.
    """
    from classy_vision.resolve import TRAINED, Kind, resolve

    resolve(model, TRAINED - {Kind.EXPORTED}, "classy probe")
    place = output or Path("probes", os.path.basename(os.path.normpath(model)) or "model")
    with training_packages():
        from classy_vision.embed.probe import probe
    options: dict[str, Any] = {"columns": columns or (), "blocks": blocks or (), "pooling": pooling or ()}
    options |= {
        "attentive": attentive,
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
        "force": force,
    }
    options["tell"] = partial(typer.echo, err=True)
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
        more = f"  {'attentive':>9}" if any(one.attentive is not None for one in readings) else ""
        named = f"  {'block':{wide}}  {'pooling':14}  {'channels':>8}  {'MACs':>7}  {'k-NN':>7}  {'linear':>7}"
        print(f"{named}{more}")
        for one in readings:
            mark = "*" if one in front else " "
            numbers = f"{one.channels:8}  {human(one.macs):>7}  {_show(one.knn)}  {_show(one.linear)}"
            last = f"    {_show(one.attentive)}" if more else ""
            print(f"{mark} {one.block:{wide}}  {one.pooling:14}  {numbers}{last}")
        print(f"the cheapest within one point of the best: {cheapest.block}, {cheapest.pooling}\n")
    print(f"classy train {found.folder / CONFIG} trains a head there")


def _show(accuracy: float | None) -> str:
    return f"{'-':>7}" if accuracy is None else f"{accuracy:7.2%}"
