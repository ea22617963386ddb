"""Figures of a run: curves of losses and metrics, and images or videos with their predictions."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from classy_vision.atomic import replacing
from classy_vision.data.images import ImageError
from classy_vision.data.masks import Array, ClassMasks, PixelLabels, make_palette
from classy_vision.data.samples import read_stills
from classy_vision.text import cut
from classy_vision.train.job import Job
from classy_vision.train.run_folder import Row
from classy_vision.train.tasks import DASH, resize_to

OPACITY = 0.6
"""Of what is laid over an image."""
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

    A video is shown by the first, the middle and the last frame of its middle clip. Beside an image is, for
    each head with an answer for each pixel, what it says laid over the image, and the truth likewise.

    Args:
        job: the images or videos, tasks and targets.
        rows: of the records.
        outputs: of these rows, by head.
    """
    clip = job.settings.data.clip
    stills = min(3, clip.frames) if clip else 1 + 2 * len(job.dense)
    columns = min(6 if stills == 1 else max(1, 12 // stills if job.dense else 9 // stills), len(rows))
    lines = -(-len(rows) // columns)
    width = 2.0 if stills == 1 else 1.4 * stills
    height = (1.7 if stills == 1 else 1.4) + 0.22 * (len(job.tasks) - len(job.dense))
    figure = Figure(figsize=(width * columns, height * lines + 0.3), layout="constrained")
    if stills > 1:  # so that one video keeps away from the next
        figure.get_layout_engine().set(w_pad=0.15)  # type: ignore[union-attr, call-arg]  # of matplotlib's layout engine
    unit = job.settings.data.unit
    title = f"Held-out {unit}s: green is right, red is wrong (truth in brackets)"
    if job.dense:
        title += f"\nfrom left to right: the image; {', '.join(f'{head} and its truth' for head in job.dense)}"
    figure.suptitle(title, fontsize=10)
    for axis in (axes := list(figure.subplots(lines, columns, squeeze=False).flat)):
        axis.set_axis_off()
    for i, (axis, row) in enumerate(zip(axes, rows)):
        _draw_image(axis, job, row, {head: output[i] for head, output in outputs.items()})
    return to_png(figure)


def _draw_image(axis: Axes, job: Job, row: int, outputs: Mapping[str, Tensor]) -> None:
    try:
        stills = read_stills(job.records.images[row], job.settings.data, job.channels)
        if job.dense:
            stills = _overlay_heads(stills[0], job, row, outputs)
        axis.imshow(_side_by_side(stills), cmap="gray", vmin=0, vmax=255)
    except ImageError:
        axis.text(0.5, 0.5, "unreadable", ha="center", transform=axis.transAxes)
    whole = [(head, task) for head, task in job.tasks.items() if not task.dense]
    for line, (head, task) in enumerate(whole):
        target = job.targets[head][row]
        said, true = task.say(outputs[head]), task.say_target(target)
        judged = task.has_classes and true != DASH
        colour = NEUTRAL if not judged else RIGHT if said == true else WRONG
        text = f"{head}: {said}" if true in (said, DASH) else f"{head}: {said} ({true})"
        short = cut(text, 30).replace("$", r"\$")
        place = (0.5, -0.04 - 0.13 * line)
        axis.annotate(short, place, xycoords="axes fraction", ha="center", va="top", fontsize=8, color=colour)


def _overlay_heads(image: Image.Image, job: Job, row: int, outputs: Mapping[str, Tensor]) -> list[Image.Image]:
    """The image, and for each head with an answer for each pixel that answer and the truth, over the image."""
    image, truth = image.convert("RGB"), job.samples()[0, row].dense
    panels = [image]
    for head, true in truth.items():
        task = job.tasks[head]
        said = resize_to(outputs[head][None], true[None])[0]
        found = said.argmax(0) if task.has_classes else said[0]
        for values in (found, true):
            colours, shown = _colour(values.numpy(), (found.numpy(), true.numpy()), job.dense[head])
            panels.append(Image.composite(Image.blend(image, colours, OPACITY), image, shown))
    return panels


def _colour(values: Array, scale: Sequence[Array], labels: PixelLabels) -> tuple[Image.Image, Image.Image]:
    """Values (h, w) in colours, and where there are some; numbers are on the scale of those in ``scale``."""
    shown = Image.fromarray(255 * labels.known(values).astype(np.uint8))
    if isinstance(labels, ClassMasks):
        codes = np.where(labels.known(values), values, 0)
        return Image.fromarray(make_palette(len(labels.classes))[codes]), shown
    all_of_them = np.concatenate([one.ravel() for one in scale])
    low, high = np.nanmin(all_of_them), np.nanmax(all_of_them)
    scaled = (np.nan_to_num(values) - low) / max(high - low, 1e-6)
    return Image.fromarray(colormaps["viridis"](scaled.clip(0, 1), bytes=True)[..., :3]), shown


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


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure as SVG or PNG.

    Raises:
        ConfigError: the file cannot be written.
    """
    FigureCanvasAgg(figure)
    with replacing(path) as beside:
        figure.savefig(beside, format=path.suffix.removeprefix("."), dpi=160)


# -- before training


def draw_rates(rates: Sequence[float], losses: Sequence[float], suggestion: float) -> Figure:
    """Draws the losses of a sweep over learning rates."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(rates, losses)
    axis.axvline(suggestion, color=RIGHT, linestyle="--", label=f"falls fastest at {suggestion:.1e}")
    axis.set_xscale("log")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("loss")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def draw_cosines(blocks: Sequence[str], cosines: Mapping[tuple[str, str], Sequence[float | None]]) -> Figure:
    """Draws the cosines of pairs of heads along the blocks."""
    figure = Figure(figsize=(max(5.0, 0.5 * len(blocks) + 2), 4), layout="constrained")
    axis = figure.subplots()
    for (a, b), row in cosines.items():
        values = [np.nan if cosine is None else cosine for cosine in row]
        axis.plot(range(len(blocks)), values, marker="o", label=f"{a}, {b}")
    axis.axhline(0, color=NEUTRAL, linewidth=1)
    axis.set_ylim(-1.05, 1.05)
    axis.set_xticks(range(len(blocks)), blocks, rotation=60, ha="right")
    axis.set_ylabel("cosine of gradients")
    axis.grid(alpha=0.3)
    axis.legend()
    return figure
