"""Pictures as files: SVG and PNG, and what cannot be written."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.transforms import Bbox
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.cost.picture import check_picture, draw, palette
from classy_vision.cost.picture.rows import describe
from classy_vision.cost.picture.still import _HEAT, draw_figure
from tests.cost.picture.models import LONG, SCRIPT, costs_of

SVG = "{http://www.w3.org/2000/svg}"


def boxes_of(axes: Axes) -> list[tuple[Bbox, bool]]:
    """What is drawn, in pixels, and whether it is text."""
    texts = [text for text in axes.texts if text.get_text()]
    bars = [bar for container in axes.containers[1:] for bar in container if bar.get_width()]
    return [(item.get_window_extent(), item in texts) for item in (*texts, *bars)]


@pytest.mark.parametrize("latency", [None, {}], ids=["counted", "measured"])
@pytest.mark.parametrize(
    "key", ["stops early", "vectors", "long names", pytest.param("deep", marks=pytest.mark.slow)]
)
def test_no_text_runs_into_another_or_out(key: str, latency: dict[str, float] | None) -> None:
    costs = LONG if key == "long names" else costs_of(key)
    figure = draw_figure(
        describe(costs, f"{key}, a title that says a good deal, and then some more" * 3, latency)
    )
    FigureCanvasAgg(figure)
    boxes = boxes_of(figure.axes[0])
    assert all(figure.bbox.padded(-1).contains(*corner) for box, _ in boxes for corner in (box.min, box.max))
    for index, (box, is_text) in enumerate(boxes):
        others = (other for other, other_is_text in boxes[index + 1 :] if is_text or other_is_text)
        assert not any(box.overlaps(other) for other in others)


def test_every_step_and_head_is_drawn_where_it_runs() -> None:
    costs = costs_of("stops early")
    axes = draw_figure(describe(costs, "")).axes[0]
    _, sides, channels, amounts = axes.containers
    steps = [step for step in costs.steps if not step.reads]
    assert [len(bars) for bars in (sides, channels, amounts)] == [len(steps), len(steps), len(costs.steps)]
    middles = [bar.get_y() + bar.get_height() / 2 for bar in amounts]
    assert middles == sorted(set(middles))
    white = [to_hex(bar.get_facecolor()) == palette.PAPER for bar in channels]
    assert white == [step in costs.skipped for step in steps]
    assert {bar.get_x() for bar in channels} == {bar.get_x() for bar in sides}
    heads = [text.get_text() for text in axes.texts if text.get_bbox_patch()]
    assert heads == [step.name for step in costs.heads]
    largest = max(costs.steps, key=lambda step: step.macs)
    assert to_hex(channels[steps.index(largest)].get_facecolor()) == palette.HEAT[2]


def test_svg_is_well_formed_and_keeps_texts_as_texts(tmp_path: Path) -> None:
    draw(costs_of("stops early"), tmp_path / "a.svg", title=SCRIPT)
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    kinds = {element.tag.removeprefix(SVG) for element in root.iter() if element.tag.startswith(SVG)}
    assert "script" not in kinds
    assert root.findtext(f"{SVG}title") == SCRIPT
    assert [element.text for element in root.iter(f"{SVG}text")].count(SCRIPT) == 2
    addresses = re.findall(r"(?:href=.|src=.|url\()(.)", (tmp_path / "a.svg").read_text())
    assert set(addresses) <= {"#"}


def test_colours_grow_darker_and_stay_apart_in_grey() -> None:
    grey = _HEAT(np.linspace(0, 1, 11))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(grey) < -0.03).all()
    assert tuple(to_hex(_HEAT(share)) for share in (0.0, 1.0)) == palette.HEAT[::2]


def test_png_shows_the_bars(tmp_path: Path) -> None:
    costs = costs_of("stops early")
    draw(costs, tmp_path / "a.png", title="$a$ \N{SNOWMAN} 日本")
    axes = draw_figure(describe(costs, "a")).axes[0]
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    for bar in (bar for container in axes.containers[1:] for bar in container if abs(bar.get_width()) > 8):
        x, y = bar.get_x() + bar.get_width() / 4, bar.get_y() + bar.get_height() / 4
        assert "#" + bytes(pixels[int(2 * y), int(2 * x)]).hex() == to_hex(bar.get_facecolor())


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
        ("folder.svg", r"exists and is not a file"),
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


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_stills_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr("classy_vision.cost.picture.write.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"{suffix.upper()} pictures need .* 'classy-vision-models\[plot\]'"):
        draw(costs_of("vectors"), tmp_path / f"a.{suffix}", title="a")
    assert not list(tmp_path.iterdir())


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
    assert path.read_text().startswith("<?xml")
    assert os.listdir(tmp_path) == ["A.SVG"]


def test_a_page_needs_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("classy_vision.cost.picture.write.find_spec", lambda name: None)
    draw(costs_of("vectors"), tmp_path / "a.html", title="a")
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
