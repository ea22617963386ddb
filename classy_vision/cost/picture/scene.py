"""A picture laid out: boxes, lines and texts at their places, in pixels from the top left."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from unicodedata import east_asian_width

from classy_vision.cost.picture import palette
from classy_vision.cost.picture.palette import FAINT, HEAD, INK, MUTED, PAPER, REST
from classy_vision.cost.picture.rows import Picture, Row, Stage

GLYPH = 0.602  # width of a monospaced character by its height
MARGIN, GAP, SPACE = 28, 18, 7
SIDE, TRUNK, BAR = 84, 250, 76  # resolution, channels, cost
HEADER, LEGEND = 104, 150
LETTERS = 34  # of the longest name


@dataclass(frozen=True)
class Box:
    """A rectangle; ``tip`` is shown where one points at it."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = ""
    radius: float = 0
    tip: str = ""


@dataclass(frozen=True)
class Line:
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str = INK
    width: float = 1
    dashed: bool = False


@dataclass(frozen=True)
class Text:
    """One line of text; ``y`` is its middle, ``align`` says which end of it is at ``x``."""

    x: float
    y: float
    text: str
    size: float = 11
    colour: str = INK
    align: str = "start"
    bold: bool = False
    mono: bool = True


@dataclass
class Scene:
    """Marks, each drawn over those before it."""

    width: float
    height: float = 0
    marks: list[Box | Line | Text] = field(default_factory=list)


@dataclass(frozen=True)
class _Columns:
    """Where columns stand: names and bars at their left ends, numbers at their right ones."""

    pitch: float
    font: float
    name: float
    shape: float
    axis: float
    bar: float
    share: float
    numbers: tuple[float, ...]
    stage: float
    end: float


def scene(what: Picture) -> Scene:
    """Lays ``what`` out: one line for every step and head, coloured by the first metric."""
    columns = _columns(what)
    result = Scene(columns.end + MARGIN, marks=[*_header(what, columns)])
    y: float = HEADER
    ends: dict[bool, list[float]] = {}
    for stage in what.stages:
        if not stage.rows[0].runs and False not in ends:
            result.marks += _stop(what.stop, columns, y)
            y += 2 * columns.pitch
        result.marks += _stage(stage, columns, y, what.metrics[0].key)
        for row in stage.rows:
            y += columns.pitch
            if row.reads is None:
                ends.setdefault(row.runs, []).append(y)
        y += SPACE
    for runs, bottoms in ends.items():
        colour = INK if runs else REST
        top = bottoms[0] - columns.pitch
        result.marks.append(Line(columns.axis, top, columns.axis, bottoms[-1], colour, 1.5))
    result.height = y - SPACE + MARGIN
    return result


def _columns(what: Picture) -> _Columns:
    rows = what.rows
    pitch = 20 if len(rows) <= 45 else 16
    font = 11.5 if pitch == 20 else 10.5
    letters = max(_letters(_label(row)) for row in rows)
    glyph = GLYPH * font
    shape = MARGIN + letters * glyph + GAP + max(7, *(len(row.shape) for row in rows)) * glyph
    axis = shape + GAP + SIDE * any(row.extent for row in rows if row.reads is None)
    pills = [_letters(row.name[:LETTERS]) * glyph + 46 for row in rows if row.reads]
    bar = axis + max(TRUNK, *pills, 0) + GAP + 7 * glyph
    share = bar + BAR + 7 * glyph
    numbers = tuple(share + (i + 1) * 13 * glyph for i in range(len(what.metrics) - 1))
    stage = (numbers or (share,))[-1] + GAP
    end = stage + 12 + max(12, *(len(_times(stage)) for stage in what.stages)) * glyph
    return _Columns(pitch, font, MARGIN, shape, axis, bar, share, numbers, stage, end)


def _times(stage: Stage) -> str:
    return f"{shorten(stage.name, 24)} × {stage.steps}"


def _label(row: Row) -> str:
    """The step's names, or the first where they are too long."""
    names = " = ".join((row.name, *row.aliases))
    return "head" if row.reads else names if len(names) <= LETTERS else shorten(row.name, LETTERS)


def _letters(text: str) -> int:
    """How many letters wide ``text`` is; ideographs are two."""
    return sum(2 if east_asian_width(letter) in "FW" else 1 for letter in text)


def shorten(text: str, letters: int) -> str:
    """``text`` with its middle left out where it is too long."""
    if len(text) <= letters:
        return text
    return f"{text[: (letters - 1) // 2]}…{text[len(text) - letters // 2 :]}"


def _fit(text: str, width: float, size: float) -> str:
    return shorten(text, max(8, int(width / (0.64 * size))))


def _header(what: Picture, columns: _Columns) -> Iterator[Box | Line | Text]:
    metric = what.metrics[0]
    largest = what.largest[metric.key]
    most = f"{largest.text} {metric.label}, {largest.share}"
    legend = columns.end - len(most) * GLYPH * 10.5 - 8 - LEGEND
    yield Text(MARGIN, 32, _fit(what.title, legend - MARGIN - 2 * GAP, 17), 17, bold=True, mono=False)
    yield Text(MARGIN, 54, _fit(what.summary, columns.end - MARGIN, 12), 12, MUTED, mono=False)
    yield from _legend(most, legend, columns.end)
    yield from (
        Text(columns.name, 88, "block", 11, MUTED, mono=False),
        Text(columns.shape, 88, "output", 11, MUTED, "end", mono=False),
        Text(columns.axis + 6, 88, "channels", 11, MUTED, mono=False),
        Text(columns.bar - 8, 88, metric.label, 11, MUTED, "end", mono=False),
        Text(columns.stage + 10, 88, "stage", 11, MUTED, mono=False),
        Line(MARGIN, 97, columns.end, 97, FAINT),
    )
    if columns.axis > columns.shape + GAP:
        yield Text(columns.axis - 6, 88, "resolution", 11, MUTED, "end", mono=False)
    for x, other in zip(columns.numbers, what.metrics[1:]):
        yield Text(x, 88, other.label, 11, MUTED, "end", mono=False)


def _legend(most: str, left: float, right: float) -> Iterator[Box | Text]:
    for i in range(64):
        yield Box(left + i * LEGEND / 64, 27.5, LEGEND / 64 + 0.5, 9, palette.heat(i / 63))
    yield Text(left - 7, 32, "0", 10.5, MUTED, "end")
    yield Text(right, 32, most, 10.5, MUTED, "end")


def _stop(text: str, columns: _Columns, y: float) -> Iterator[Line | Text]:
    middle = y + columns.pitch
    yield Line(MARGIN, middle, columns.end, middle, HEAD, 1, dashed=True)
    yield Text(MARGIN, middle - 10, text, 11, HEAD, mono=False)


def _stage(stage: Stage, columns: _Columns, y: float, key: str) -> Iterator[Box | Line | Text]:
    height = len(stage.rows) * columns.pitch
    fork = y
    for index, row in enumerate(stage.rows):
        top = y + index * columns.pitch
        fork = top if row.reads is None else fork
        yield from _row(row, columns, top, fork, key)
    if stage.steps > 1:
        ink = INK if stage.rows[0].runs else MUTED
        amount = stage.amounts[key]
        middle = y + height / 2
        yield Line(columns.stage, y + 3, columns.stage, y + height - 3, REST, 1.5)
        yield Text(columns.stage + 10, middle - 7, _times(stage), columns.font, ink, bold=True)
        yield Text(columns.stage + 10, middle + 7, f"{amount.text} {amount.share}", columns.font, ink)


def _row(row: Row, columns: _Columns, top: float, fork: float, key: str) -> Iterator[Box | Line | Text]:
    middle = top + columns.pitch / 2
    ink = INK if row.runs else MUTED
    if row.reads is None:
        yield Text(columns.name, middle, _label(row), columns.font, ink)
        yield from _bars(row, columns, top, key)
    else:
        yield from _head(row, columns, top, fork)
    shape = "" if row.repeats else row.shape
    yield Text(columns.shape, middle, shape, columns.font, MUTED, "end")
    amount = row.amounts[key]
    yield Text(columns.bar - 8, middle, amount.text, columns.font, ink, "end")
    fill = palette.heat(amount.heat) if row.runs else FAINT
    yield Box(columns.bar, top + 4, max(0.5, BAR * amount.heat), columns.pitch - 8, fill)
    yield Text(columns.share, middle, amount.share, columns.font, MUTED, "end")
    others = (other.text for name, other in row.amounts.items() if name != key)
    for x, text in zip(columns.numbers, others):
        yield Text(x, middle, text, columns.font, MUTED, "end")


def _bars(row: Row, columns: _Columns, top: float, key: str) -> Iterable[Box]:
    height = columns.pitch - 4
    fill, stroke = (palette.heat(row.amounts[key].heat), "#8a6d52") if row.runs else (PAPER, REST)
    side = SIDE * row.extent
    if side:
        grey = palette.EXTENT if row.runs else FAINT
        yield Box(columns.axis - side, top + 2, side, height, grey, tip=_tip(row))
    yield Box(columns.axis, top + 2, TRUNK * row.width, height, fill, stroke, tip=_tip(row))


def _tip(row: Row) -> str:
    return "\n".join((row.name, *(f"{label}: {value}" for label, value in row.facts)))


def _head(row: Row, columns: _Columns, top: float, fork: float) -> Iterator[Box | Line | Text]:
    x, middle = columns.axis + 14, top + columns.pitch / 2
    name = shorten(row.name, LETTERS)
    height = columns.pitch - 3
    yield Text(columns.name, middle, "head", columns.font, HEAD, mono=False)
    yield Line(x, fork + columns.pitch - 2, x, middle, HEAD, 1.5)
    yield Line(x, middle, x + 12, middle, HEAD, 1.5)
    width = _letters(name) * GLYPH * columns.font + 2 * height / 2 + 4
    yield Box(x + 12, top + 1.5, width, height, HEAD, radius=height / 2, tip=_tip(row))
    yield Text(x + 12 + width / 2, middle, name, columns.font, PAPER, "middle")
