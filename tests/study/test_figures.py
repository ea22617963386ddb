"""Figures: labels keep apart, curves are the distributions, and files are the same again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from matplotlib.axes import Axes as Plot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.study import Row, choose_axes
from classy_vision.study.edf import draw_edf
from classy_vision.study.figure import place_labels, save
from classy_vision.study.scatter import draw_scatter


def rows(count: int, seed: int = 0, groups: str = "ab") -> list[Row]:
    drawn = random.Random(seed)
    return [
        Row(
            f"network_{i:02d}",
            groups[i % len(groups)],
            macs=1e8 * 10 ** (2 * drawn.random()),
            latency=3 + drawn.random(),
            accuracies={"digit": 0.7 + 0.1 * drawn.random()},
        )
        for i in range(count)
    ]


def labels(figure: Figure) -> list[Annotation]:
    return [child for child in figure.axes[0].get_children() if isinstance(child, Annotation)]


@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_neither_each_other_nor_points(seed: int) -> None:
    drawn = rows(36, seed)
    axes = choose_axes(drawn)
    figure = draw_scatter(drawn, axes)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = [Text.get_window_extent(note, renderer) for note in labels(figure)]
    assert len(boxes) > 25
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    points = figure.axes[0].transData.transform([axes.point(row) for row in drawn])
    assert not any(box.contains(*point) for box in boxes for point in points)
    legend = figure.axes[0].get_legend()
    assert legend
    assert not any(box.overlaps(legend.get_window_extent(renderer)) for box in boxes)


def test_a_label_without_room_is_left_out() -> None:
    plot: Plot = Figure(figsize=(1, 1)).subplots()
    assert place_labels(plot, [(0.5, 0.5)], ["a name that is longer than the figure is wide"]) == []


def test_of_many_points_only_the_front_is_named() -> None:
    drawn = rows(60)
    assert 0 < len(labels(draw_scatter(drawn, choose_axes(drawn)))) < 15


def test_a_wide_axis_is_logarithmic_and_a_narrow_one_is_not() -> None:
    drawn = rows(10)
    plot = draw_scatter(drawn, choose_axes(drawn, "macs", "accuracy")).axes[0]
    assert (plot.get_xscale(), plot.get_yscale()) == ("log", "linear")
    assert plot.xaxis.get_major_formatter()(2e9, 0) == "2G"
    assert plot.yaxis.get_major_formatter()(0.725, 0) == "72.5%"


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_figures_are_the_same_bytes_again(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        save(draw_scatter(rows(8), choose_axes(rows(8))), tmp_path / f"{name}{suffix}")
    first, second = sorted(tmp_path.iterdir())
    assert first.read_bytes() == second.read_bytes()
    if suffix == ".png":
        with Image.open(first) as image:
            assert image.convert("L").getextrema()[0] < 100


def test_nothing_to_plot() -> None:
    with pytest.raises(ConfigError, match="no model has both latency and accuracy"):
        draw_scatter([Row("a")], choose_axes([], "latency", "accuracy"))
    failed = Row("b", macs=2, latency=1.0, accuracies={"digit": 0.5}, failure="no memory")
    with pytest.raises(ConfigError, match="no model has both latency and accuracy"):
        draw_scatter([failed], choose_axes([], "latency", "accuracy"))
    with pytest.raises(ConfigError, match="no model has an accuracy"):
        draw_edf([Row("a")])


def test_a_curve_for_each_group() -> None:
    drawn = [Row(f"{i}", "ab"[i % 2], accuracies={"digit": 1 - i / 10}) for i in range(1, 5)]
    plot = draw_edf([*drawn, Row("failed", "a")]).axes[0]
    curves = {str(line.get_label()).split()[0]: line for line in plot.get_lines()}
    assert set(curves) == {"a", "b"}
    xs, ys = curves["b"].get_data()
    assert [round(float(x), 6) for x in list(xs)[1:]] == [0.1, 0.3]
    assert list(ys) == [0, 0.5, 1]
    assert curves["a"].get_label() == "a  n = 2  [20.0 | 30.0]"
