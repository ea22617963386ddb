"""A picture as SVG or PNG, drawn by matplotlib: one line for every step and head, in the colour of its cost."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from unicodedata import east_asian_width

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from classy_vision.cost.picture.palette import EDGE, EXTENT, FAINT, HEAD, HEAT, INK, MUTED, PAPER, REST
from classy_vision.cost.picture.rows import Picture, Row, Stage

MONO, SANS = ["DejaVu Sans Mono", "monospace"], ["DejaVu Sans", "sans-serif"]
GLYPH = 0.602  # width of a monospaced character by its height
INCH = 100  # pixels
POINT = 72 / INCH
MARGIN, GAP, SPACE, HEADER = 28, 18, 7, 104
SIDE, TRUNK, BAR, LEGEND = 84, 250, 76, 150  # resolution, channels, cost, colours
LETTERS = 34  # of the longest name
LANES = 4  # for lines from earlier steps, side by side
_HEAT = LinearSegmentedColormap.from_list("heat", HEAT)


def render_still(what: Picture, kind: str) -> bytes:
    """Returns the content of a file.

    Args:
        what: the picture to draw.
        kind: "svg", which keeps texts as texts, or "png", with two pixels for each one of the SVG.
    """
    metadata = {"Title": what.title, "Date": None} if kind == "svg" else {"Software": None}
    content = io.BytesIO()
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none", "svg.hashsalt": "classy"}):
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a box takes its place
        dpi = INCH if kind == "svg" else 2 * INCH
        draw_figure(what).savefig(content, format=kind, dpi=dpi, metadata=metadata)
    return content.getvalue()


def draw_figure(what: Picture) -> Figure:
    """Draws a table with bars, one line for every step and head."""
    columns = _measure_columns(what)
    lines, height = _place_lines(what, columns.pitch)
    figure = Figure(figsize=(columns.width / INCH, height / INCH), dpi=INCH, facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, columns.width), ylim=(height, 0))
    axes.set_axis_off()
    _draw_header(axes, what, columns)
    _draw_lines(axes, lines, columns, what.metrics[0].key)
    _draw_stages(axes, what, lines, columns)
    return figure


# -- where things stand, in pixels from the top left


@dataclass(frozen=True)
class Line:
    """A row and its middle; ``fork`` is that of the step that a head reads."""

    row: Row
    stage: Stage
    y: float
    fork: float


@dataclass(frozen=True)
class Columns:
    """Names and bars start at these positions, and numbers end at them."""

    pitch: float
    font: float
    shape: float
    axis: float
    cost: float
    share: float
    others: tuple[float, ...]
    stage: float
    end: float

    @property
    def width(self) -> float:
        """Of the picture."""
        return self.end + MARGIN


def _measure_columns(what: Picture) -> Columns:
    rows = what.rows
    pitch, font = (20, 11.5) if len(rows) <= 45 else (16, 10.5)
    glyph = GLYPH * font
    shape = (
        MARGIN
        + GAP
        + glyph * (max(map(_count_letters, map(_label, rows))) + max(7, *(len(r.shape) for r in rows)))
    )
    axis = shape + GAP + SIDE * any(row.extent for row in rows if row.reads is None)
    heads = [_count_letters(shorten(row.name, LETTERS)) * glyph + 46 for row in rows if row.reads]
    cost = axis + max(TRUNK, *heads, 0) + GAP + 7 * glyph
    share = cost + BAR + 7 * glyph
    others = tuple(share + (i + 1) * 13 * glyph for i in range(len(what.metrics) - 1))
    stage = (others or (share,))[-1] + GAP
    end = stage + 12 + glyph * max(12, *(len(_times(stage)) for stage in what.stages))
    return Columns(pitch, font, shape, axis, cost, share, others, stage, end)


def _place_lines(what: Picture, pitch: float) -> tuple[list[Line], float]:
    """The lines of a picture, and its height. Two lines are left free above the first that does not run."""
    lines: list[Line] = []
    y = HEADER + pitch / 2
    for stage in what.stages:
        if not stage.rows[0].runs and (not lines or lines[-1].row.runs):
            y += 2 * pitch
        for row in stage.rows:
            lines.append(Line(row, stage, y, y if row.reads is None or not lines else lines[-1].fork))
            y += pitch
        y += SPACE
    return lines, y - SPACE - pitch / 2 + MARGIN


# -- marks


def _write(axes: Axes, x: float, y: float, text: str, size: float, **look: Any) -> None:
    look = {"color": MUTED, "family": SANS, "va": "center_baseline", **look}
    axes.text(x, y, text, fontsize=size * POINT, parse_math=False, **look)


def _draw_header(axes: Axes, what: Picture, columns: Columns) -> None:
    metric, *others = what.metrics
    largest = what.largest[metric.key]
    most = f"{largest.text} {metric.label}, {largest.share}"
    legend = columns.end - len(most) * GLYPH * 10.5 - 8 - LEGEND
    _write(axes, MARGIN, 32, _fit(what.title, legend - MARGIN - 2 * GAP, 17), 17, weight="bold", color=INK)
    _write(axes, MARGIN, 54, _fit(what.summary, columns.end - MARGIN, 12), 12)
    axes.bar(
        [legend + i * LEGEND / 64 for i in range(64)], 9, LEGEND / 64 + 0.5, 27.5, color=_HEAT(range(0, 256, 4))
    )
    _write(axes, legend - 7, 32, "0", 10.5, ha="right", family=MONO)
    _write(axes, columns.end, 32, most, 10.5, ha="right", family=MONO)
    for x, text in ((MARGIN, "block"), (columns.axis + 6, "channels"), (columns.stage + 10, "stage")):
        _write(axes, x, 88, text, 11)
    ends = [
        (columns.shape, "output"),
        (columns.cost - 8, metric.label),
        *zip(columns.others, (m.label for m in others)),
    ]
    ends += [(columns.axis - 6, "resolution")] * (columns.axis > columns.shape + GAP)
    for x, text in ends:
        _write(axes, x, 88, text, 11, ha="right")
    axes.hlines(97, MARGIN, columns.end, FAINT, linewidth=POINT)


def _draw_lines(axes: Axes, lines: Sequence[Line], columns: Columns, key: str) -> None:
    lanes = count()
    middles = {line.row.name: line.y for line in lines if line.row.reads is None}
    for line in lines:
        row, ink = line.row, INK if line.row.runs else MUTED
        if row.reads is None:
            _write(axes, MARGIN, line.y, _label(row), columns.font, color=ink, family=MONO)
        else:
            lane = next(lanes) % LANES if row.also_reads else 0
            _draw_head(axes, line, columns, [middles[step] for step in row.also_reads], lane)
        amount, *others = [row.amounts[key], *(a for name, a in row.amounts.items() if name != key)]
        numbers = [(columns.shape, "" if row.repeats else row.shape), (columns.share, amount.share)]
        for x, text in (*numbers, *zip(columns.others, (other.text for other in others))):
            _write(axes, x, line.y, text, columns.font, ha="right", family=MONO)
        _write(axes, columns.cost - 8, line.y, amount.text, columns.font, color=ink, ha="right", family=MONO)
    _draw_bars(axes, lines, columns, key)


def _draw_bars(axes: Axes, lines: Sequence[Line], columns: Columns, key: str) -> None:
    """Resolution and channels of steps to the sides of an axis, and the costs of all rows."""
    steps = [line for line in lines if line.row.reads is None]
    middles, runs = [line.y for line in steps], [line.row.runs for line in steps]
    sides = [-SIDE * line.row.extent for line in steps]
    tall, thin = columns.pitch - 4, columns.pitch - 8
    axes.barh(middles, sides, tall, columns.axis, color=[EXTENT if run else FAINT for run in runs])
    heats = [_HEAT(float(line.row.amounts[key].heat)) if line.row.runs else PAPER for line in steps]
    edges = [EDGE if run else REST for run in runs]
    widths = [TRUNK * line.row.width for line in steps]
    axes.barh(middles, widths, tall, columns.axis, color=heats, edgecolor=edges, linewidth=0.6 * POINT)
    amounts = [line.row.amounts[key] for line in lines]
    colours = [_HEAT(float(a.heat)) if line.row.runs else FAINT for a, line in zip(amounts, lines)]
    axes.barh(
        [line.y for line in lines], [max(0.5, BAR * a.heat) for a in amounts], thin, columns.cost, color=colours
    )
    for some, colour in ((True, INK), (False, REST)):
        if ys := [line.y for line in steps if line.row.runs is some]:
            half = columns.pitch / 2
            axes.vlines(columns.axis, ys[0] - half, ys[-1] + half, colour, linewidth=1.5 * POINT)


def _draw_head(axes: Axes, line: Line, columns: Columns, earlier: Sequence[float], lane: int) -> None:
    """A label on a branch from the step that the head reads, and from those ``earlier`` that it reads too."""
    x, name = columns.axis + 14, shorten(line.row.name, LETTERS)
    _write(axes, MARGIN, line.y, "head", columns.font, color=HEAD)
    top = line.fork + columns.pitch / 2 - 2
    axes.plot([x, x, x + 14], [top, line.y, line.y], color=HEAD, linewidth=1.5 * POINT)
    if earlier:
        left = x - 6 * (lane + 1)
        axes.plot([left, left, x], [min(earlier), line.y, line.y], color=HEAD, linewidth=1.5 * POINT)
        axes.plot([left] * len(earlier), earlier, "o", color=HEAD, markersize=5 * POINT)
    box = {"boxstyle": "round,pad=0.25,rounding_size=0.4", "facecolor": HEAD, "edgecolor": "none"}
    _write(axes, x + 18, line.y, name, columns.font, color=PAPER, family=MONO, bbox=box)


def _draw_stages(axes: Axes, what: Picture, lines: Sequence[Line], columns: Columns) -> None:
    """Brackets around stages of several steps, with their sums; and where the forward pass stops."""
    for stage in what.stages:
        ys = [line.y for line in lines if line.stage is stage]
        if stage.steps > 1:
            half, middle = columns.pitch / 2 - 3, (ys[0] + ys[-1]) / 2
            look: dict[str, Any] = {"color": INK if stage.rows[0].runs else MUTED, "family": MONO}
            amount = stage.amounts[what.metrics[0].key]
            axes.vlines(columns.stage, ys[0] - half, ys[-1] + half, REST, linewidth=1.5 * POINT)
            _write(axes, columns.stage + 10, middle - 7, _times(stage), columns.font, weight="bold", **look)
            _write(axes, columns.stage + 10, middle + 7, f"{amount.text} {amount.share}", columns.font, **look)
    if first := next((line for line in lines if not line.row.runs), None):
        y = first.y - 1.5 * columns.pitch
        axes.hlines(y, MARGIN, columns.end, HEAD, linewidth=POINT, linestyle=(0, (4, 3)))
        _write(axes, MARGIN, y - 10, what.stop, 11, color=HEAD)


# -- texts that fit


def _times(stage: Stage) -> str:
    return f"{shorten(stage.name, 24)} × {stage.steps}"


def _label(row: Row) -> str:
    """The step's names, or the first where they are too long."""
    names = " = ".join((row.name, *row.aliases))
    return "head" if row.reads else names if len(names) <= LETTERS else shorten(row.name, LETTERS)


def _count_letters(text: str) -> int:
    """How many letters wide ``text`` is; ideographs are two."""
    return sum(2 if east_asian_width(letter) in "FW" else 1 for letter in text)


def shorten(text: str, letters: int) -> str:
    """``text`` with its middle left out where it is too long."""
    if len(text) <= letters:
        return text
    return f"{text[: (letters - 1) // 2]}…{text[len(text) - letters // 2 :]}"


def _fit(text: str, width: float, size: float) -> str:
    return shorten(text, max(8, int(width / (0.64 * size))))
