"""Pictures of an evaluation: which classes are taken for which, numbers against the truth, and mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from classy_vision.data.images import ImageError
from classy_vision.data.samples import read_stills
from classy_vision.evaluate.scores import HeadScores, decode
from classy_vision.predict.inputs import Input
from classy_vision.predict.predictor import Predictor
from classy_vision.text import cut
from classy_vision.train.figures import to_png
from classy_vision.train.tasks import Task

NAMED = 40
"""The most classes whose names have room along an axis."""
COUNTED = 20
"""The most classes whose counts have room in their cells."""


def draw_confusion(task: Task, scores: HeadScores) -> bytes:
    """A PNG: each row is a class, and shows what its samples were taken for, as a part of them."""
    counts = scores.confusion
    assert counts is not None
    columns = task.classes if scores.kind != "multilabel" else ("TN", "FP", "FN", "TP")
    parts = counts / counts.sum(1, keepdims=True).clip(1)
    side = min(14.0, 2.5 + 0.34 * max(len(task.classes), 4))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(parts, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axis, label="part of the class")
    if len(task.classes) <= NAMED:
        axis.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=90)
        axis.set_yticks(range(len(task.classes)), [_short(name) for name in task.classes])
    if len(task.classes) <= COUNTED:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if parts[row, column] > 0.5 else "black"
            axis.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)
    axis.set_title(f"{task.name}: {scores.count} labels", fontsize=10)
    axis.set_ylabel("true")
    axis.set_xlabel("predicted" if scores.kind != "multilabel" else "negatives and positives")
    return to_png(figure)


def draw_numbers(task: Task, outputs: Tensor, targets: Tensor) -> bytes:
    """A PNG: predicted numbers over true ones; on the line they are equal."""
    valid = task.valid(targets)
    true, found = targets[valid].numpy(), decode(task, outputs[valid]).numpy()
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    ends = [float(min(true.min(), found.min())), float(max(true.max(), found.max()))]
    axis.plot(ends, ends, color="tab:gray", linewidth=1)
    axis.scatter(true, found, s=12, alpha=0.6)
    axis.set_title(task.name, fontsize=10)
    axis.set_xlabel("true")
    axis.set_ylabel("predicted")
    axis.grid(alpha=0.3)
    return to_png(figure)


def draw_mistakes(
    predictor: Predictor, task: Task, inputs: Sequence[Input], outputs: Tensor, targets: Tensor
) -> bytes:
    """A PNG of images with what was predicted for them, and the truth; of videos, their middle frame."""
    columns = min(6, len(inputs))
    lines = -(-len(inputs) // columns)
    figure = Figure(figsize=(2.1 * columns, 2.5 * lines + 0.3), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    figure.suptitle(f"{task.name}: the worst {len(inputs)}", fontsize=10)
    for axis in axes:
        axis.set_axis_off()
    for axis, one, output, target in zip(axes, inputs, outputs, targets):
        _draw(axis, predictor, one)
        lines_of = (Path(one.name).name, f"predicted {task.say(output)}", f"true {task.say_target(target)}")
        axis.set_title("\n".join(_short(line) for line in lines_of), fontsize=7)
    return to_png(figure)


def _draw(axis: Axes, predictor: Predictor, one: Input) -> None:
    try:
        stills = read_stills(one.source, predictor.data, predictor.model.input_shape[0])
        axis.imshow(_to_rgb(stills[len(stills) // 2]))
    except ImageError:
        axis.text(0.5, 0.5, "unreadable", ha="center", transform=axis.transAxes)


def _to_rgb(still: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(still.convert("RGB"))


def _short(text: str) -> str:
    return cut(text, 28).replace("$", r"\$")
