"""What the figures of a study share: colours, files, and labels that do not overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from math import cos, radians, sin
from pathlib import Path as File
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from classy_vision.atomic import replacing

COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#7f7f7f")
INK = "#333333"

Point = tuple[float, float]


def choose_colours(groups: Sequence[str]) -> dict[str, str]:
    """Chooses a colour for each group, in their order."""
    names = list(dict.fromkeys(groups))
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def save(figure: Figure, path: File) -> None:
    """Writes a figure as SVG or PNG, the same bytes for the same figure.

    Raises:
        ConfigError: the file cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with replacing(path) as beside, rc_context({"svg.hashsalt": "classy"}):
        figure.savefig(beside, format=kind, dpi=160, metadata=metadata)


# -- labels


def place_labels(
    axes: Axes, points: Sequence[Point], texts: Sequence[str], line: Sequence[Point] = ()
) -> list[Annotation]:
    """Writes a text at each of the first points, so that it covers no point and no other text.

    The first texts are placed first; a text that does not fit is left out.

    Args:
        axes: with limits and scales as they will be.
        points: all that are drawn.
        texts: of the first points.
        line: a line through these points is covered only if there is no other place.
    """
    desk = _Desk(axes, points, line)
    return [note for index, text in enumerate(texts) if (note := desk.place(index, text))]


class _Desk:
    """What lies on a plot, in pixels: markers, labels, the legend and lines."""

    def __init__(self, axes: Axes, points: Sequence[Point], line: Sequence[Point]) -> None:
        self.axes, self.points = axes, points
        figure = axes.get_figure(root=True)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()  # type: ignore[no-untyped-call]  # of matplotlib
        self.renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]  # of matplotlib
        self.room, legend = axes.get_window_extent(self.renderer), axes.get_legend()
        self.pixels, half = self._pixels(points), MARKER * self.renderer.dpi / 144
        self.taken = [Bbox([[x - half, y - half], [x + half, y + half]]) for x, y in self.pixels]
        self.taken += [legend.get_window_extent(self.renderer)] if legend else []
        self.line = [Path(self._pixels(line))] if len(line) > 1 else []
        self.ways: list[Path] = []

    def place(self, index: int, text: str) -> Annotation | None:
        """Writes a text as near to its point as it fits."""
        others = [box for box in self.taken if not box.contains(*self.pixels[index])]
        for lines, (offset, sides) in product((self.line, []), _places()):
            note = _write(self.axes, text, self.points[index], offset, sides)
            note.update_positions(self.renderer)
            box = Text.get_window_extent(note, self.renderer).padded(1)  # without the line to it
            way = Path([self.pixels[index], ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)])
            clear = not any(_crosses(each, box) for each in (*self.ways, *lines))
            if clear and self._is_free(box) and not any(_crosses(way, other) for other in others):
                self.taken.append(box)
                self.ways.append(way)
                return note
            note.remove()
        return None

    def _is_free(self, box: Bbox) -> bool:
        inside = self.room.contains(box.x0, box.y0) and self.room.contains(box.x1, box.y1)
        return inside and not any(box.overlaps(other) for other in self.taken)

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [(float(x), float(y)) for x, y in self.axes.transData.transform(points)]


def _crosses(path: Path, box: Bbox) -> bool:
    return bool(path.intersects_bbox(box, filled=False))


def _write(axes: Axes, text: str, point: Point, offset: Point, sides: tuple[str, str]) -> Annotation:
    """Writes a text beside a point, with a line to it if it is far away."""
    line = _LINE if max(map(abs, offset)) > NEAR else None
    look: dict[str, Any] = {"fontsize": 8, "color": INK, "ha": sides[0], "va": sides[1], "arrowprops": line}
    return axes.annotate(text, point, offset, textcoords="offset points", **look)


NEAR, MARKER = 12, 10
"""In points: the distance from which a label has a line to its point, and the size of a point."""
TURNS = (0, 180, 90, 270, 45, 315, 135, 225, 20, 340, 160, 200, 70, 290, 110, 250)
_LINE = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}


def _places() -> Iterator[tuple[Point, tuple[str, str]]]:
    """Offsets in points with their alignments, from near to far."""
    for distance, turn in product((8, 11, 18, 26, 36, 48, 62), TURNS):
        x, y = distance * cos(radians(turn)), distance * sin(radians(turn))
        sides = (
            ("left" if x > 1 else "right" if x < -1 else "center"),
            ("bottom" if y > 1 else "top" if y < -1 else "center"),
        )
        yield (x, y), sides
