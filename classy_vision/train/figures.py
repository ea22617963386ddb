"""Figures of a run: curves of losses and metrics, and images or videos with their predictions."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from classy_vision.data.images import ImageError
from classy_vision.data.samples import read_stills
from classy_vision.train.job import Job
from classy_vision.train.run_folder import Row
from classy_vision.train.tasks import DASH

RIGHT, WRONG, NEUTRAL = "#1a7f37", "#cf222e", "#333333"


def draw_curves(history: Sequence[Row], job: Job) -> bytes:
    """A PNG: a row per head, its losses and each of its metrics over the epochs."""
    heads = {head: ["loss", *task.metrics()] for head, task in job.tasks.items()}
    columns = max(map(len, heads.values()))
    figure = Figure(figsize=(4.2 * columns, 2.9 * len(heads)), layout="constrained")
    axes = figure.subplots(len(heads), columns, squeeze=False)
    for row, (head, names) in zip(axes, heads.items()):
        for axis, name in zip(row, names):
            _draw_curve(axis, history, head, name)
        for axis in row[len(names) :]:
            axis.set_axis_off()
    return to_png(figure)


def _draw_curve(axis: Axes, history: Sequence[Row], head: str, name: str) -> None:
    epochs = [row["epoch"] for row in history]
    for split, label, colour in (("train", "training", "tab:gray"), ("val", "held out", "tab:blue")):
        key = f"{split}/{head}/{name}"
        if key in history[-1]:
            marker = "o" if len(epochs) < 3 else ""
            axis.plot(epochs, [row[key] for row in history], marker=marker, color=colour, label=label)
    axis.set_title(f"{head}: {name}", fontsize=10)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def draw_predictions(job: Job, rows: Sequence[int], outputs: Mapping[str, Tensor]) -> bytes:
    """A PNG of images with what each head says of them, and the truth where it differs.

    A video is shown by the first, the middle and the last frame of its middle clip.

    Args:
        job: the images or videos, tasks and targets.
        rows: of the records.
        outputs: of these rows, by head.
    """
    clip = job.settings.data.clip
    stills = min(3, clip.frames) if clip else 1
    columns = min(6 if stills == 1 else 3, len(rows))
    lines = -(-len(rows) // columns)
    width = 2.0 if stills == 1 else 1.4 * stills
    height = (1.7 if stills == 1 else 1.4) + 0.22 * len(job.tasks)
    figure = Figure(figsize=(width * columns, height * lines + 0.3), layout="constrained")
    if stills > 1:  # so that one video keeps away from the next
        figure.get_layout_engine().set(w_pad=0.15)  # type: ignore[union-attr, call-arg]  # of matplotlib's layout engine
    unit = job.settings.data.unit
    figure.suptitle(f"Held-out {unit}s: green is right, red is wrong (truth in brackets)", fontsize=10)
    for axis in (axes := list(figure.subplots(lines, columns, squeeze=False).flat)):
        axis.set_axis_off()
    for i, (axis, row) in enumerate(zip(axes, rows)):
        _draw_image(axis, job, row, {head: output[i] for head, output in outputs.items()})
    return to_png(figure)


def _draw_image(axis: Axes, job: Job, row: int, outputs: Mapping[str, Tensor]) -> None:
    try:
        stills = read_stills(job.records.images[row], job.settings.data, job.channels)
        axis.imshow(_side_by_side(stills), cmap="gray", vmin=0, vmax=255)
    except ImageError:
        axis.text(0.5, 0.5, "unreadable", ha="center", transform=axis.transAxes)
    for line, (head, task) in enumerate(job.tasks.items()):
        target = job.targets[head][row]
        said, true = task.say(outputs[head]), task.say_target(target)
        judged = task.has_classes and true != DASH
        colour = NEUTRAL if not judged else RIGHT if said == true else WRONG
        text = f"{head}: {said}" if true in (said, DASH) else f"{head}: {said} ({true})"
        short = textwrap.shorten(text, 30, placeholder="…")
        place = (0.5, -0.04 - 0.13 * line)
        axis.annotate(short, place, xycoords="axes fraction", ha="center", va="top", fontsize=8, color=colour)


def _side_by_side(stills: Sequence[Image.Image]) -> np.ndarray[Any, Any]:
    """The pixels of images of one size, with a little white between them."""
    pixels = [np.asarray(still) for still in stills]
    gap = np.full_like(pixels[0][:, : max(1, pixels[0].shape[1] // 16)], 255)
    return np.concatenate([part for one in pixels for part in (gap, one)][1:], axis=1)


def to_png(figure: Figure) -> bytes:
    """Renders a figure."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]  # torch does not type it
    return buffer.getvalue()
