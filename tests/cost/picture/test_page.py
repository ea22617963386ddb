"""The HTML page in a real browser: what it shows, and how one gets around in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from classy_vision.cost.picture import draw, palette
from classy_vision.cost.picture.rows import describe
from tests.cost.picture.browser import browser
from tests.cost.picture.models import LONG, SCRIPT, costs_of

__all__ = ["browser"]

Open = Callable[..., Any]
COSTS = costs_of("stops early")
LATENCY = {step.name: 2.0 + index for index, step in enumerate(COSTS.steps) if step not in COSTS.skipped}
NAMES = [step.name for step in COSTS.steps]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "a picture.html"
    draw(COSTS, path, title=SCRIPT, latency=LATENCY)
    return path


@pytest.fixture
def said() -> list[str]:
    """What pages say on the console: errors, and breaches of the policy."""
    return []


@pytest.fixture
def asked() -> list[str]:
    """Addresses that pages ask for."""
    return []


@pytest.fixture(scope="module")
def tab(browser: Any) -> Any:
    """One for all tests: opening one takes longer than what is done in it."""
    page = browser.new_context(has_touch=True).new_page()
    page.set_default_timeout(10_000)
    return page


@pytest.fixture
def open_page(tab: Any, page_file: Path, said: list[str], asked: list[str]) -> Iterator[Open]:
    """Opens the page, and sees to it that nothing was asked of the network and nothing went wrong."""
    listeners = {
        "console": lambda message: said.append(message.text),
        "pageerror": lambda error: said.append(str(error)),
        "request": lambda request: asked.append(request.url),
    }
    for event, listener in listeners.items():
        tab.on(event, listener)

    def opened(path: Path = page_file, size: tuple[int, int] = (1200, 800), **media: str) -> Any:
        tab.set_viewport_size({"width": size[0], "height": size[1]})
        tab.emulate_media(**{"color_scheme": "light", "media": "screen", **media})
        tab.goto(path.as_uri())
        assert asked == [path.as_uri()]
        asked.clear()
        return tab

    yield opened
    for event, listener in listeners.items():
        tab.remove_listener(event, listener)
    assert asked == said == []


def row_of(page: Any, name: str) -> Any:
    return page.locator(f"#row-{NAMES.index(name)}")


def facts_of(page: Any) -> dict[str, str]:
    pairs = page.locator("aside dl > div").all()
    return {pair.locator("dt").inner_text(): pair.locator("dd").inner_text() for pair in pairs}


def colour_of(locator: Any) -> str:
    """Chromium gives mixed colours as ``color(srgb 0.5 0.25 0)``, others as ``rgb(128, 64, 0)``."""
    text = locator.evaluate("element => getComputedStyle(element).backgroundColor")
    numbers = [float(number) for number in re.findall(r"[\d.]+", text)[:3]]
    scale = 255 if "srgb" in text else 1
    return "#" + "".join(f"{round(number * scale):02x}" for number in numbers)


def is_near(colour: str, other: str) -> bool:
    """Browsers round in other places."""
    return all(abs(int(colour[i : i + 2], 16) - int(other[i : i + 2], 16)) <= 1 for i in (1, 3, 5))


def test_texts_of_users_are_texts(open_page: Open) -> None:
    page = open_page()
    assert page.title() == SCRIPT
    assert page.inner_text("h1") == SCRIPT
    assert row_of(page, SCRIPT).locator("button").inner_text() == SCRIPT
    assert page.evaluate("typeof broken") == "undefined"
    assert page.locator("script").count() == 2


def test_nothing_else_runs_and_nothing_is_asked_of_the_network(
    open_page: Open, said: list[str], asked: list[str]
) -> None:
    page = open_page()
    page.evaluate("""() => document.body.append(
        Object.assign(document.createElement("script"), {textContent: "broken = true"}),
        Object.assign(document.createElement("img"), {src: "http://127.0.0.1:1/a.png"}),
    )""")
    assert page.evaluate("typeof broken") == "undefined"
    assert page.evaluate("fetch('http://127.0.0.1:1/').then(() => 'sent', error => error.name)") == "TypeError"
    assert said
    assert all("Content Security Policy" in line for line in said)
    said.clear()
    asked.clear()  # one was asked for, and refused


def test_every_step_is_a_row_of_one_table(open_page: Open) -> None:
    page = open_page()
    assert page.locator("tr[id] button").all_inner_texts() == NAMES
    assert page.locator(".head button").all_inner_texts() == [step.name for step in COSTS.heads]
    assert page.locator(".rests button").all_inner_texts() == [step.name for step in COSTS.skipped]
    assert "stops here" in page.inner_text(".stop")
    last = [step.name for step in COSTS.heads if step.reads == COSTS.deepest]
    assert page.locator(".ends button").all_inner_texts() == last  # the trunk's line ends before them
    assert page.get_by_role("row").count() == len(NAMES) + 2


def test_pointing_at_a_block_tells_its_numbers(open_page: Open) -> None:
    page = open_page()
    assert "Point at a block" in page.inner_text("aside")
    row_of(page, "block1-0").hover()
    step = COSTS.steps[NAMES.index("block1-0")]
    assert page.inner_text("aside h2") == "block1-0"
    facts = facts_of(page)
    assert facts["output"] == "128×28×28"
    assert facts["stride"] == "8"
    assert facts["MACs"].startswith(f"{step.macs:,} (")
    assert facts["parameters"].startswith(f"{step.params:,} (")
    row_of(page, SCRIPT).hover()
    assert page.inner_text("aside h2") == SCRIPT
    assert facts_of(page)["reads"] == "block1-1"


def test_the_metric_is_switched(open_page: Open) -> None:
    page = open_page()
    what = describe(COSTS, "", LATENCY)
    rows = {row.name: row for row in what.rows}
    for metric in reversed(what.metrics):
        page.locator("label").get_by_text(metric.label, exact=True).click()
        for name in ("stem", "block1-1", "block3-0"):
            row, amount = row_of(page, name), rows[name].amounts[metric.key]
            shown = row.locator(".amount").inner_text().split()
            assert shown == f"{amount.text} {amount.share}".split()
            if rows[name].runs:
                assert is_near(colour_of(row.locator(".width")), palette.heat(amount.heat))
        assert page.locator("thead .amount").inner_text() == metric.label
        largest = metric.largest
        assert " ".join(page.inner_text(".scale").split()) == f"0 {largest.text}, {largest.share}"


def test_latency_is_offered_only_where_it_was_measured(open_page: Open, tmp_path: Path) -> None:
    draw(COSTS, tmp_path / "a.html", title="a")
    page = open_page(tmp_path / "a.html")
    assert page.locator("label").all_inner_texts() == ["MACs", "parameters", "activations"]


def test_the_metric_is_switched_without_scripts(browser: Any, page_file: Path) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(page_file.as_uri())
    page.locator("label").get_by_text("parameters").click()
    params = describe(COSTS, "").rows[1].amounts["params"].text
    assert row_of(page, NAMES[1]).locator(".amount b:visible").all_inner_texts() == [params]


def pasted(page: Any) -> str:
    """What the clipboard holds, by the only way that needs no permission."""
    page.evaluate("document.body.append(Object.assign(document.createElement('textarea'), {id: 'paste'}))")
    page.focus("#paste")
    page.keyboard.press("Control+V")
    return str(page.input_value("#paste"))


NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
REFUSED = "navigator.clipboard.writeText = async () => { throw new DOMException('no'); }; 0"


@pytest.mark.parametrize("script", ["0", NO_CLIPBOARD, REFUSED], ids=["clipboard", "none", "refused"])
def test_a_name_copies_the_line_of_a_config(open_page: Open, script: str) -> None:
    page = open_page()
    page.evaluate(script)
    for name, block in (("block1-0", "block1-0"), ("third", "block0-1")):
        row_of(page, name).locator("button").click()
        page.get_by_text(f"Copied: fork_block: {block}").wait_for()
        assert pasted(page) == f"fork_block: {block}"
        page.evaluate("document.getElementById('paste').remove()")


def test_the_line_is_marked_where_nothing_can_copy_it(open_page: Open) -> None:
    page = open_page()
    page.evaluate(NO_CLIPBOARD + "document.execCommand = () => false;")
    row_of(page, "block0-0").locator("button").click()
    page.get_by_text("Press Ctrl+C").wait_for()
    assert page.evaluate("getSelection().toString()") == "fork_block: block0-0"


def test_all_of_it_is_reached_by_keys(open_page: Open) -> None:
    page = open_page(size=(1200, 400))
    focused = "document.activeElement.innerText"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "choose-params"
    assert page.locator("thead .amount").inner_text() == "parameters"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == NAMES[0]
    down = [("ArrowDown", at) for at in range(1, 9)]  # past the end of the window
    for key, at in (*down, ("End", -1), ("ArrowDown", -1), ("ArrowUp", -2)):
        page.keyboard.press(key)
        assert page.evaluate(focused) == page.inner_text("aside h2") == NAMES[at]
        box, panel = page.locator("button:focus").bounding_box(), page.locator("aside").bounding_box()
        assert box["y"] + box["height"] <= panel["y"]
    page.keyboard.press("Enter")
    page.get_by_text(f"Copied: fork_block: {NAMES[-2]}").wait_for()
    page.keyboard.press("Tab")  # one stop for the whole table
    assert page.evaluate("document.activeElement.tagName") == "BODY"


def test_touching_a_row_tells_its_numbers(open_page: Open) -> None:
    page = open_page(size=(400, 700))
    row_of(page, "block0-1").locator(".picture").tap()
    assert page.inner_text("aside h2") == "block0-1"
    assert page.locator("output").inner_text() == ""


def test_it_fits_any_width(open_page: Open, page_file: Path, tmp_path: Path) -> None:
    draw(LONG, tmp_path / "a.html", title="a_title_without_a_break" * 9)
    for path in (page_file, tmp_path / "a.html"):
        page = open_page(path)
        for width in (320, 381, 601, 841, 1001, 1181):  # where room is shortest
            page.set_viewport_size({"width": width, "height": 800})
            whole, cells = page.evaluate(EDGES)
            assert whole == width
            assert cells == sorted(cells)
            assert cells[-1] <= width


EDGES = """() => [document.documentElement.scrollWidth, [...document.querySelectorAll("#row-0 > *")]
  .filter(cell => cell.checkVisibility()).map(cell => cell.getBoundingClientRect())
  .flatMap(box => [box.left, box.right])]"""
CONTRAST = """() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number).map(v => text.includes("srgb") ? 255 * v : v);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility({opacityProperty: true}) || element.matches("script")) continue;
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push(element.outerHTML);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(open_page: Open, scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    row_of(page, "block1-0").locator("button").click()
    assert page.evaluate(CONTRAST) == []
    dark = int(colour_of(page.locator("body"))[1:3], 16) < 0x40
    assert dark == (scheme == "dark")
    heats = [row.amounts["macs"].heat for row in describe(COSTS, "").rows]
    costliest = page.locator(f"#row-{heats.index(1)} .width")
    assert colour_of(costliest) == (palette.HEAT_ON_DARK if dark else palette.HEAT)[2]


def test_print_is_on_white_and_has_colours(open_page: Open) -> None:
    page = open_page(size=(794, 1123), color_scheme="dark", media="print")
    assert colour_of(page.locator("body")) == palette.PAPER
    assert not page.locator("aside").is_visible()
    assert page.locator("#row-1 .width").evaluate("e => getComputedStyle(e).printColorAdjust") == "exact"
    assert page.evaluate("document.documentElement.scrollWidth") == 794
    assert page.evaluate(CONTRAST) == []
