"""Pictures as files: SVG and PNG, and what cannot be written."""

from __future__ import annotations

import os
import re
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.cost.picture import check_picture, draw, palette
from classy_vision.cost.picture.rows import picture
from classy_vision.cost.picture.scene import GLYPH, Box, Text, scene
from tests.cost.picture.models import CONFIGS, LONG, SCRIPT, costs_of

SVG = "{http://www.w3.org/2000/svg}"


def extent(text: Text) -> tuple[float, float]:
    width = len(text.text) * text.size * (GLYPH if text.mono else 0.6)
    left = text.x - width * {"start": 0, "middle": 0.5, "end": 1}[text.align]
    return left, left + width


@pytest.mark.parametrize("latency", [None, {}], ids=["counted", "measured"])
@pytest.mark.parametrize("key", [*CONFIGS, "long names"])
def test_no_text_runs_into_another_or_out(key: str, latency: dict[str, float] | None) -> None:
    costs = LONG if key == "long names" else costs_of(key)
    drawn = scene(picture(costs, f"{key}, a title that says a good deal, and then some more" * 3, latency))
    lines: dict[float, list[tuple[float, float, bool]]] = {}
    for mark in drawn.marks:
        if isinstance(mark, Text) and mark.text:
            lines.setdefault(mark.y, []).append((*extent(mark), True))
    for mark in drawn.marks:
        if isinstance(mark, Box) and not mark.radius and mark.y + mark.height / 2 in lines:
            lines[mark.y + mark.height / 2].append((mark.x, mark.x + mark.width, False))
    for placed in map(sorted, lines.values()):
        assert placed[0][0] >= 0
        assert placed[-1][1] <= drawn.width
        for (_, end, is_text), (start, _, was_text) in pairwise(placed):
            assert start >= end + 3 or not (is_text or was_text)


def test_every_step_and_head_is_drawn_where_it_runs() -> None:
    costs = costs_of("stops early")
    marks = scene(picture(costs, "")).marks
    boxes = {mark.tip.split("\n")[0]: mark for mark in marks if isinstance(mark, Box) and mark.tip}
    assert list(boxes) == [step.name for step in costs.steps]
    tops = [box.y for box in boxes.values()]
    assert tops == sorted(tops)
    assert len(set(tops)) == len(tops)
    assert [name for name, box in boxes.items() if box.fill == palette.HEAD] == [s.name for s in costs.heads]
    assert [name for name, box in boxes.items() if box.fill == palette.PAPER] == [s.name for s in costs.skipped]


def test_svg_is_well_formed_and_keeps_texts_as_texts(tmp_path: Path) -> None:
    draw(costs_of("stops early"), tmp_path / "a.svg", title=SCRIPT)
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds == {"svg", "style", "rect", "line", "text", "title"}
    assert root.get("aria-label") == SCRIPT
    assert [element.text for element in root.iter(f"{SVG}text")].count(SCRIPT) == 2
    assert not re.search(r"(?:href|src|url\()", (tmp_path / "a.svg").read_text())


def test_colours_grow_darker_and_stay_apart_in_grey() -> None:
    colours = [palette.heat(share) for share in np.linspace(0, 1, 11)]
    grey = [np.dot([int(c[i : i + 2], 16) for i in (1, 3, 5)], [0.299, 0.587, 0.114]) for c in colours]
    assert (np.diff(grey) < -8).all()
    assert (colours[0], colours[5], colours[-1]) == palette.HEAT


def test_png_shows_the_scene(tmp_path: Path) -> None:
    costs = costs_of("stops early")
    draw(costs, tmp_path / "a.png", title="$a$ \N{SNOWMAN} 日本")
    drawn = scene(picture(costs, "a"))
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[:2] == (round(2 * drawn.height), round(2 * drawn.width))
    for box in (mark for mark in drawn.marks if isinstance(mark, Box) and mark.tip and mark.width > 4):
        x, y = (box.x + 2, box.y + box.height / 2) if box.radius == 0 else (box.x + 4, box.y + box.height / 2)
        found = "#" + bytes(pixels[int(2 * y), int(2 * x)]).hex()
        assert found == box.fill, box


def test_pictures_are_the_same_each_time(tmp_path: Path) -> None:
    for suffix in ("svg", "png", "html"):
        for name in "ab":
            draw(costs_of("vectors"), tmp_path / f"{name}.{suffix}", title="a")
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.pdf", r"unknown kind of picture '.pdf'.*\.svg, \.png, \.html"),
        ("a.htm", r"did you mean '.html'"),
        ("a", r"unknown kind of picture 'a'.*\.svg, \.png, \.html"),
        ("gone/a.svg", r"there is no folder '.*gone'"),
        ("folder.svg", r"is no file"),
        ("file/a.svg", r"there is no folder"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=message):
        check_picture(tmp_path / name)
    with pytest.raises(ConfigError, match=message):
        draw(None, tmp_path / name, title="")  # type: ignore[arg-type]  # before any work
    assert sorted(tmp_path.rglob("*")) == before


def test_png_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classy_vision.cost.picture.write.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'classy-vision-models\[plot\]'"):
        check_picture(tmp_path / "a.png")
    check_picture(tmp_path / "a.svg")


def test_a_picture_is_replaced_as_a_whole_or_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "A.SVG"
    path.write_text("before")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(ConfigError, match="cannot write .*No space left"):
            draw(costs_of("vectors"), path, title="a")
    assert path.read_text() == "before"
    draw(costs_of("vectors"), path, title="a")
    assert path.read_text().startswith("<svg")
    assert os.listdir(tmp_path) == ["A.SVG"]


def test_only_png_needs_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    draw(costs_of("vectors"), tmp_path / "a.svg", title="a")
    draw(costs_of("vectors"), tmp_path / "a.html", title="a")
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
