"""``classy neighbours``: what neighbours say about a collection."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from classy_vision.cli.options import (
    OUTPUT,
    DeviceOption,
    ForceOption,
    option,
    training_packages,
)

if TYPE_CHECKING:
    from classy_vision.embed.findings import Neighbours

SHOWN = 24
Features = Annotated[str, typer.Argument(metavar="FEATURES", help="A folder that classy embed wrote.")]
_FOLDER = "neighbours/NAME of the folder"
Output = Annotated[
    Path | None, option("--output -o", "FOLDER", "The folder to write.", OUTPUT, show_default=_FOLDER)
]
_COLUMN = "Compare these features, such as block3/mean."
Column = Annotated[str | None, option("--column", "COLUMN", _COLUMN, show_default="the only ones")]
_LABEL = "Read the labels from this column."
Label = Annotated[str | None, option("--label", "COLUMN", _LABEL, show_default="label, where there is one")]
_K = "Find this many neighbours of each image."
Count = Annotated[int | None, option("-k --k", "N", _K, min=1, show_default="10, or all of fewer")]
_THRESHOLD = "Group neighbours with this cosine or more as near duplicates."
_CLOSE = "1 - a tenth of the median distance to the nearest neighbour"
Threshold = Annotated[float | None, option("--threshold", "COSINE", _THRESHOLD, show_default=_CLOSE)]
_OF = "Show the neighbours of this image, an id or a path; repeatable."
Of = Annotated[list[str] | None, option("--of", "IMAGE", _OF)]
_MODEL = "The model of the features, for images that are not among them."
ModelOption = Annotated[str | None, option("--model", "MODEL", _MODEL)]
_SHOW = "Show this many groups, labels and outliers on the page."
Show = Annotated[int, option("--show", "N", _SHOW, OUTPUT, min=1)]


def neighbours(
    features: Features,
    output: Output = None,
    column: Column = None,
    label: Label = None,
    k: Count = None,
    threshold: Threshold = None,
    of: Of = None,
    model: ModelOption = None,
    show: Show = SHOWN,
    force: ForceOption = False,
    device: DeviceOption = None,
) -> None:
    """Find near duplicates, outliers, labels that may be wrong, and neighbours of images.

    The neighbours are the exact ones, by the cosine of features that classy embed wrote. The folder gets
    neighbours.html, a page with pictures that needs nothing else; neighbours.parquet, with a row for each
    image; and neighbours.json, with what stands out.
    """
    options: dict[str, Any] = {"column": column, "label": label, "k": k, "threshold": threshold}
    options |= {"of": of or (), "model": model, "device": device}
    place = output or Path("neighbours", os.path.basename(os.path.abspath(os.path.expanduser(features))))
    with training_packages():
        from classy_vision.embed.stored import load

        load(features)  # before torch is imported, which takes seconds
        from classy_vision.embed.review import neighbours
        from classy_vision.embed.review_files import check_review, write_neighbours
    check_review(place, force=force)
    with _show_progress() as progress:
        found = neighbours(features, progress=progress, **options)
    page = write_neighbours(found, place, show=show, force=force)
    for line in _summarize(found):
        print(line)
    print(f"pictures of them are in {page}")


def _summarize(found: Neighbours) -> Iterator[str]:
    """Writes in a few lines what was found."""
    from classy_vision.embed.review_page import describe

    ids, groups = found.stored.ids, found.duplicates
    yield describe(found)
    for one in found.queries:
        pairs = zip(one.rows[:5], one.similarities)
        yield f"near {one.name}: " + ", ".join(f"{ids[row]} ({cosine:.4f})" for row, cosine in pairs)
    count, copies = sum(len(one.rows) for one in groups), sum(len(one.copies) for one in groups)
    differ = sum(len(one.labels) > 1 for one in groups)
    text = f"{count:,} {found.unit}s in {len(groups):,} group{'s' * (len(groups) > 1)}" if groups else "none"
    text += f" (cosine {found.threshold:.6f} or more)"
    text += f", {copies:,} of them exact copies" if copies else ""
    yield f"near duplicates: {text}{f'; labels differ in {differ:,}' if differ else ''}"
    if found.label:
        first = ", ".join(f"{ids[one.row]} ({one.suggested}?)" for one in found.disagreements[:3])
        yield f"labels that disagree: {len(found.disagreements):,}{f', first {first}' if first else ''}"
    first = ", ".join(ids[row] for row in found.outliers[:3].tolist())
    yield f"furthest from all others: {first}"


@contextmanager
def _show_progress() -> Iterator[Callable[[int, int], None] | None]:
    """Shows a bar on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("comparing", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
