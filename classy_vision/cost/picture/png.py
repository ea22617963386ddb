"""A scene as PNG, drawn by matplotlib."""

from __future__ import annotations

import io
import warnings
from typing import Any

from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Text as Label

from classy_vision.cost.picture.palette import PAPER
from classy_vision.cost.picture.scene import Box, Line, Scene, Text

INCH = 100  # pixels of the scene
POINT = 72 / INCH
SHARPNESS = 2  # pixels of the file for one of the scene
ALIGN = {"start": "left", "middle": "center", "end": "right"}


def png(scene: Scene) -> bytes:
    """The file's content."""
    figure = Figure(figsize=(scene.width / INCH, scene.height / INCH), dpi=SHARPNESS * INCH, facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, scene.width), ylim=(scene.height, 0))
    axes.set_axis_off()
    for order, mark in enumerate(scene.marks):
        artist = axes.add_artist(_artist(mark))
        artist.set_zorder(order)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # an empty box stands there
        figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _artist(mark: Box | Line | Text) -> Artist:
    if isinstance(mark, Line):
        return Line2D(
            [mark.x1, mark.x2], [mark.y1, mark.y2], color=mark.colour, linewidth=mark.width * POINT,
            linestyle=(0, (4, 3)) if mark.dashed else "solid", solid_capstyle="butt",
        )  # fmt: skip
    if isinstance(mark, Text):
        return Label(
            mark.x, mark.y, mark.text, fontsize=mark.size * POINT, color=mark.colour, ha=ALIGN[mark.align],
            va="center_baseline", weight="bold" if mark.bold else "normal", parse_math=False,
            family="DejaVu Sans Mono" if mark.mono else "DejaVu Sans",
        )  # fmt: skip
    look: dict[str, Any] = {
        "facecolor": mark.fill,
        "edgecolor": mark.stroke or "none",
        "linewidth": 0.6 * POINT,
    }
    corner, shape = (mark.x, mark.y), (mark.width, mark.height)
    if not mark.radius:
        return Rectangle(corner, *shape, **look)
    return FancyBboxPatch(corner, *shape, boxstyle=f"round,pad=0,rounding_size={mark.radius}", **look)
