"""The files of a review; and the page in a real browser: what it shows, and that it needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from classy_vision.config import ConfigError
from classy_vision.embed import Neighbours, neighbours, review_files, write_neighbours
from tests.cost.picture.browser import browser
from tests.cost.picture.test_page import CONTRAST, colour_of
from tests.embed.collections import write_embeddings
from tests.embed.conftest import write_image

__all__ = ["browser"]

Open = Callable[..., Any]
SCRIPT = "<script>broken = 1</script>"
LONG = "a_label_without_a_break_" * 9
COUNT, GROUP = 40, 20
FILES = ("neighbours.html", "neighbours.parquet", "neighbours.json")


def find(place: Path, **options: Any) -> Neighbours:
    """Forty images: twenty near duplicates, and others of two labels; some are not there, one is damaged."""
    draw = np.random.default_rng(0)
    features = draw.standard_normal((COUNT, 8))
    features[:GROUP] = features[0] + 1e-4 * draw.standard_normal((GROUP, 8))
    labels = [SCRIPT if n % 2 else LONG for n in range(COUNT)]
    labels[1] = ""
    paths = [write_image(place / "images" / f"{n}.png", n % 39) for n in range(COUNT)]
    paths[2].unlink()
    paths[3].write_bytes(b"damaged")
    paths[5].write_bytes(paths[4].read_bytes())
    folder = write_embeddings(place / SCRIPT[:8], {"x": features}, {"label": labels}, paths=paths)
    return neighbours(folder, k=6, device="cpu", **options)


# -- files


def test_the_table_has_a_row_for_each_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_files, "BLOCK", 7)
    found = find(tmp_path)
    assert write_neighbours(found, tmp_path / "new" / "out") == tmp_path / "new" / "out" / FILES[0]
    assert sorted(p.name for p in (tmp_path / "new" / "out").iterdir()) == sorted(FILES)
    table = parquet.read_table(tmp_path / "new" / "out" / FILES[1]).to_pydict()
    ids = found.stored.ids
    assert table["id"] == ids
    assert table["neighbours"] == [[ids[row] for row in rows] for rows in found.rows.tolist()]
    assert table["similarities"] == found.similarities.tolist()
    assert table["distance"] == found.distances.tolist()
    assert table["label"][:3] == [LONG, None, LONG]
    assert [row for row, number in enumerate(table["group"]) if number == 0] == [*range(GROUP)]
    assert {row: of for row, of in enumerate(table["copy_of"]) if of} == {5: "00004"}
    assert {(row, table["suggested"][row], table["disagreement"][row]) for row in range(COUNT)} - {
        (row, None, None) for row in range(COUNT)
    } == {(one.row, one.suggested, one.share) for one in found.disagreements}


def test_what_stands_out_is_in_json(tmp_path: Path) -> None:
    found = find(tmp_path, of=["00007", tmp_path / "images" / "30.png"])
    write_neighbours(found, tmp_path / "out", show=3)
    said = json.loads((tmp_path / "out" / FILES[2]).read_text())
    assert (said["rows"], said["column"], said["label"], said["k"]) == (COUNT, "x", "label", 6)
    assert said["threshold"] == found.threshold
    assert said["duplicates"][0]["ids"] == [f"{row:05}" for row in range(GROUP)]
    assert said["duplicates"][0]["copies"] == {"00005": "00004"}
    assert [one["id"] for one in said["outliers"]] == [f"{row:05}" for row in found.outliers[:3]]
    assert len(said["disagreements"]) == len(found.disagreements) > 0
    assert [one["name"] for one in said["queries"]] == ["00007", str(tmp_path / "images" / "30.png")]
    assert said["queries"][1]["neighbours"] == [f"{row:05}" for row in found.rows[30]]


def test_a_review_is_replaced_only_if_asked(tmp_path: Path) -> None:
    found = find(tmp_path)
    write_neighbours(found, tmp_path / "out", show=1)
    before = (tmp_path / "out" / FILES[0]).read_text()
    with pytest.raises(ConfigError, match=r"out/neighbours\.html exists: --force replaces it"):
        write_neighbours(found, tmp_path / "out")
    assert (tmp_path / "out" / FILES[0]).read_text() == before
    write_neighbours(found, tmp_path / "out", force=True)
    assert (tmp_path / "out" / FILES[0]).read_text() != before
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file' is not a folder"):
        write_neighbours(found, tmp_path / "file", force=True)


# -- the page


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Neighbours:
    place = tmp_path_factory.mktemp("review")
    return find(place, of=["00030", write_image(place / "images" / "30.png", 30)])


@pytest.fixture(scope="module")
def page_file(found: Neighbours, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_neighbours(found, tmp_path_factory.mktemp("page"), show=5)


@pytest.fixture(scope="module")
def tab(browser: Any) -> Any:
    """One for all tests: opening one takes longer than what is done in it."""
    page = browser.new_context().new_page()
    page.set_default_timeout(10_000)
    return page


@pytest.fixture
def open_page(tab: Any, page_file: Path) -> Iterator[Open]:
    """Opens the page, and sees to it that nothing was asked of the network and nothing went wrong."""
    said: list[str] = []
    listeners = {
        "console": lambda message: said.append(message.text),
        "pageerror": lambda error: said.append(str(error)),
        "request": lambda request: request.url.startswith("data:") or said.append(request.url),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)

    def opened(path: Path = page_file, size: tuple[int, int] = (1200, 800), **media: str) -> Any:
        tab.set_viewport_size({"width": size[0], "height": size[1]})
        tab.emulate_media(**{"color_scheme": "light", "media": "screen", **media})
        tab.goto(path.as_uri())
        assert said == [path.as_uri()]
        said.clear()
        return tab

    yield opened
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    assert said == []


def test_texts_of_users_are_texts(open_page: Open) -> None:
    page = open_page()
    assert page.title() == page.inner_text("h1") == "Neighbours in <script>"
    assert page.evaluate("typeof broken") == "undefined"
    assert page.locator("script").count() == 0
    assert page.get_by_text(SCRIPT, exact=True).count() > 0


def test_every_picture_is_in_the_page(open_page: Open) -> None:
    page = open_page()
    sizes = page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert len(sizes) > 40
    assert {*sizes} == {18}
    assert all(source.startswith("data:image/jpeg") for source in page.evaluate(SOURCES))
    assert all(page.evaluate("[...document.images].map(i => i.alt)"))


SOURCES = "[...document.images].map(i => i.src)"


def test_sections(open_page: Open, found: Neighbours) -> None:
    page = open_page()
    titles = ["Images asked about", "Near duplicates", "Labels that disagree", "Outliers"]
    assert page.locator("h2").all_inner_texts() == titles
    count = len(found.disagreements)
    numbers = ["2", str(len(found.duplicates)), str(count), ""]
    links = [f"{title} {number}".strip() for title, number in zip(titles, numbers)]
    assert page.locator("nav a").all_inner_texts() == links
    page.locator("nav a").nth(3).click()
    assert page.evaluate("location.hash") == "#outliers"
    assert page.locator("#outliers").bounding_box()["y"] < 800
    assert f"The first 5 of {count} are shown." in page.inner_text("#labels > p")
    assert page.locator("#labels article").count() == page.locator("#outliers article").count() == 5


def test_a_group_of_duplicates(open_page: Open) -> None:
    page = open_page()
    group = page.locator("#duplicates article").first
    title = group.locator("h3").inner_text()
    assert title.startswith("20 images, one an exact copy, cosine 1.000000 or more, labels ")
    assert title.endswith(f"{LONG}, {SCRIPT}")
    assert group.locator("li:not(.more)").count() == 12
    assert group.locator(".more").inner_text() == "and 8 more"
    missing = group.locator(".missing").all_inner_texts()
    assert missing[0] == "not shown: no such file"
    assert missing[1].startswith("not shown: not an image")
    assert group.locator("li", has_text="exact copy").locator(".name").inner_text() == "00005"


def test_an_outlier_and_its_neighbours(open_page: Open, found: Neighbours) -> None:
    page = open_page()
    first, row = page.locator("#outliers article").first, int(found.outliers[0])
    assert first.locator("h3").inner_text() == f"distance {found.distances[row]:.4f}"
    shown = [row, *found.rows[row].tolist()]
    assert first.locator(".name").all_inner_texts() == [f"{one:05}" for one in shown]
    assert first.locator(".number").all_inner_texts() == [f"{one:.4f}" for one in found.similarities[row]]
    odd = [one for one in shown[1:] if found.labels[one] not in (None, found.labels[row])]
    assert first.locator("li:has(.odd) .name").all_inner_texts() == [f"{one:05}" for one in odd]
    assert first.locator("li").first.get_attribute("title") == found.stored.column("path")[row]


def test_images_that_were_asked_about(open_page: Open, found: Neighbours) -> None:
    page = open_page()
    one, same = page.locator("#queries article").all()
    assert one.locator("h3").inner_text() == "00030"
    assert same.locator("h3").inner_text().endswith("images/30.png")
    assert one.locator("li:not(.own) .name").all_inner_texts() == [f"{row:05}" for row in found.rows[30]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []
    assert (int(colour_of(page.locator("body"))[1:3], 16) < 0x40) == (scheme == "dark")


def test_it_fits_any_width(open_page: Open) -> None:
    page = open_page()
    for width in (320, 601, 900, 1400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == width
        own, *near = [li.bounding_box() for li in page.locator("#queries article").first.locator("li").all()]
        assert all(box["x"] > own["x"] + own["width"] for box in near)  # also in the rows after the first
    page.evaluate("scrollTo(0, 500)")
    assert page.locator("nav a").first.bounding_box()["y"] >= 0


def test_print_is_on_white(open_page: Open) -> None:
    page = open_page(size=(794, 1123), color_scheme="dark", media="print")
    assert colour_of(page.locator("body")) == "#ffffff"
    assert not page.locator("nav").is_visible()
    assert page.evaluate(CONTRAST) == []


def test_without_labels_and_duplicates(open_page: Open, tmp_path: Path) -> None:
    folder = write_embeddings(tmp_path / "plain", {"x": np.eye(4) + 0.1})
    page = open_page(write_neighbours(neighbours(folder, device="cpu"), tmp_path / "out"))
    assert page.locator("h2").all_inner_texts() == ["Near duplicates", "Outliers"]
    assert "There are none." in page.inner_text("#duplicates")
    assert "no labels" in page.inner_text("header")


def test_videos(open_page: Open, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from tests.data.videos import numbered, write_video

    paths = [tmp_path / "0.mp4", tmp_path / "1.mp4"]
    for path in paths:
        write_video(path, numbered(5))
    features, seen = {"x": np.ones((2, 3))}, {"clip": {"frames": 4}}
    folder = write_embeddings(tmp_path / "videos", features, paths=paths, preprocessing=seen)
    page = open_page(write_neighbours(neighbours(folder, device="cpu"), tmp_path / "out"))
    assert page.inner_text("header p").startswith("2 videos by x, 1 neighbour of each")
    assert page.locator("#duplicates h3").inner_text().startswith("2 videos, one an exact copy")
    assert (
        page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
        == [32] * page.locator("img").count()
    )
