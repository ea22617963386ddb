"""The site's pages hold what the code says, and all of it."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.main import get_command

from classy_vision import run_files
from classy_vision.cli import app
from classy_vision.config import PositiveInt
from classy_vision.data.config import SOURCES, ClipConfig
from classy_vision.heads import HEADS
from classy_vision.models import MODELS, ClassyModel, register_model
from classy_vision.presets import known_costs
from classy_vision.removed import ATTRIBUTES, NAMES
from classy_vision.train.config import ScheduleConfig, TaskConfig, TrainConfig, WeightsConfig
from classy_vision.trunk.trunk import ModelConfig
from classy_vision.weights.catalogue import list_left_out, names, published
from docs._ext import pages, trunks
from docs._ext.families import EXAMPLES, families
from docs._ext.fields import words
from docs._ext.markdown import plain, table
from docs._ext.sections import expand, render
from tests.docs.shell import fresh_registries
from tests.docs.snippets import page_text

ROOT = Path(__file__).parents[2]
PAGES = pages.names()
NAMED = [entry.name for entry in MODELS if not entry.is_preset]


def section(page: str, title: str) -> str:
    """What stands under a heading."""
    return re.split(r"^#+ ", page_text(page).split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def page_of(name: str) -> str:
    (page,) = [f"families/{f.name}.md" for f in families().values() if name in {e.name for e in f.entries}]
    return page


# -- families


@pytest.mark.parametrize("name", NAMED)
def test_a_family_has_its_keys(name: str) -> None:
    config = section(page_of(name), "Config")
    fields = set(MODELS[name].cls.config_class.model_fields)
    shown = set(re.findall(r"^\| `(\w+)`", config, re.MULTILINE))
    assert shown >= fields - set(ModelConfig.model_fields)
    refused = {"in_channels", "stochastic_depth"} if name == "mlp" else set()
    assert fields - shown == refused
    assert f'"{name}"' in config


@pytest.mark.parametrize("name", NAMED)
def test_a_family_has_its_presets(name: str) -> None:
    presets = {entry.name for entry in MODELS if entry.is_preset and entry.family == name}
    if not presets:
        assert name in EXAMPLES or page_of(name) != f"families/{name}.md", f"add a config of {name} to EXAMPLES"
        return
    rows = dict(re.findall(r"^\| `([\w.]+)` \| ([\d.]+) \|", section(page_of(name), "Presets"), re.MULTILINE))
    assert rows.keys() == presets
    known = {name: f"{costs['params'] / 1e6:.2f}" for name, costs in known_costs().items() if name in presets}
    assert known.items() <= rows.items()


def test_a_family_that_is_added_has_a_page() -> None:
    class StripesConfig(ModelConfig):
        """Stripes.

        Attributes:
            stripes: how many there are.
        """

        stripes: PositiveInt

    @register_model("stripes", {"stripes_2": {"stripes": 2}, "stripes_3": {"stripes": 3}})
    class Stripes(ClassyModel):
        """Blocks of stripes."""

        config_class = StripesConfig
        config: StripesConfig

        def __init__(self, config: Any = None, **options: Any) -> None:
            super().__init__(config, **options)
            self.stem = nn.Conv2d(self.config.in_channels, 4, 3)
            self.blocks = nn.ModuleDict({f"stripe{i}": nn.Conv2d(4, 4, 1) for i in range(self.config.stripes)})
            self.tail = nn.Identity()

    @register_model("plain_stripes")
    class PlainStripes(Stripes):
        """Stripes without presets."""

    @register_model("lines")
    class Lines(ClassyModel):
        """Lines, of which there is no example."""

        config_class = StripesConfig

    text = pages.text("families/stripes.md")
    assert text.startswith("# PlainStripes and Stripes\n")
    assert "| `stripes` | int > 0 | required | how many there are. |" in text
    assert "| `stripes_3` | 0.01 | 0.01 | 3×224×224 | `stripes=3` |" in text
    assert "| `stripe1` |  | 4×222×222 | 1 | 20 | 789K |" in text
    assert "[PlainStripes and Stripes](stripes.md)" in pages.text("families/index.md")
    assert {"families/stripes.md", "families/lines.md"} <= set(pages.names())
    assert "## Blocks" not in pages.text("families/lines.md")
    assert "| `stripes` | int > 0 |" in pages.text("families/lines.md")


# -- configs, heads, commands, what is gone


@pytest.mark.parametrize(
    "config", [TrainConfig, WeightsConfig, TaskConfig, ScheduleConfig, ClipConfig, *SOURCES.values()]
)
def test_all_keys_of_a_training_config_are_there(config: type[Any]) -> None:
    shown = re.findall(r"^\| `(\w+)`", page_text("configs.md"), re.MULTILINE)
    assert set(config.model_fields) - {"source"} <= set(shown)


@pytest.mark.parametrize("head", [entry.name for entry in HEADS])
def test_all_heads_are_there(head: str) -> None:
    assert f"### `{head}`" in page_text("heads.md")


def test_all_commands_are_there() -> None:
    group: Any = get_command(app)
    context = group.context_class(group, info_name="classy")
    names: list[str] = []
    for name in group.list_commands(context):
        inner = getattr(group.get_command(context, name), "commands", None)
        names += [f"{name} {command}" for command in inner] if inner else [name]
    assert re.findall(r"^## `classy ([\w ]+)`", page_text("cli.md"), re.MULTILINE) == names


def test_all_that_is_gone_is_there() -> None:
    text = page_text("from-classyvision.md")
    assert [name for name in (*ATTRIBUTES, *NAMES) if f"| `{name}` |" not in text] == []


def test_all_files_of_a_run_are_there() -> None:
    shown = set(re.findall(r"`([\w.]+)`", section("training.md", "The run folder").split("\n\n")[0]))
    names = "RUN_CONFIG CHECKPOINT WEIGHTS METRICS TABLE CURVES PREDICTIONS TENSORBOARD"
    assert {getattr(run_files, name) for name in names.split()} <= shown


@pytest.mark.parametrize(
    "package",
    ["models", "heads", "cost", "train", "predict", "evaluate", "engines", "export", "study", "embed"],
)
def test_every_public_name_is_documented(package: str) -> None:
    module = importlib.import_module(f"classy_vision.{package}")
    documented = re.findall(r"^\.\. auto\w+:: [\w.]+?(\w+)$", "\n".join(map(page_text, PAGES)), re.MULTILINE)
    assert set(module.__all__) - set(documented) == set()


# -- the pieces


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "integer", "exclusiveMinimum": 0}, "int > 0"),
        ({"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "0 ≤ float < 1"),
        ({"type": "number", "maximum": 2}, "float ≤ 2"),
        ({"type": "integer", "minimum": 0, "exclusiveMaximum": 2**63}, "int ≥ 0"),
        ({"enum": ["a", "b", "c"]}, '`"a"`, `"b"` or `"c"`'),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "str or `None`"),
        ({"type": ["string", "integer"]}, "str or int"),
        ({"type": "array", "items": {"type": "boolean"}}, "list of bool"),
        ({"type": "array", "prefixItems": [{"type": "string"}, {}]}, "[str, anything]"),
        ({"$ref": "#/$defs/Sized"}, "`Sized`"),
        ({"$ref": "#/$defs/Choice"}, '`"x"`'),
    ],
)
def test_types_in_words(schema: dict[str, Any], said: str) -> None:
    assert words(schema, {"Sized": {"properties": {}}, "Choice": {"const": "x"}}) == said


def test_markdown_is_left_alone() -> None:
    assert plain("a * b < ``c * d`` <e>") == r"a \* b \< ``c * d`` \<e>"
    assert table(("a", "b:"), [("x|y", "1\n2")]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |"
    with pytest.raises(KeyError):
        expand("<!-- table: no such table -->")


# -- the site


def test_options_are_not_dashes() -> None:
    assert plain("Columns for --sort and --x, not --, a--b or `--y`") == (
        "Columns for `--sort` and `--x`, not --, a--b or `--y`"
    )
    text = re.sub(r"```.*?```|`[^`]*`", "", page_text("cli.md"), flags=re.DOTALL)
    assert re.findall(r"(?<!\S)--[a-z][\w-]*", text) == []


@pytest.mark.parametrize("page", PAGES)
def test_what_stands_in_the_repository_is_current(page: str) -> None:
    file = pages.DOCS / page
    with fresh_registries():
        made = pages.family_pages.page(file.name) if file.parent != pages.DOCS else render(file.read_text())
    assert file.read_text() == made, "write it anew: python -m docs._ext.pages"


def test_every_link_leads_somewhere() -> None:
    for name in PAGES:
        for link in re.findall(r"\]\(((?!http)[^)#\s]+\.md)(?:#[\w-]+)?\)", page_text(name)):
            place = (Path(name).parent / link).as_posix()
            assert re.sub(r"^\w+/\.\./", "", place) in PAGES, f"{name}: {link}"


@pytest.mark.slow
def test_the_site_is_built_and_needs_no_network(tmp_path: Path) -> None:
    command = ["sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in PAGES:
        html = (tmp_path / name).with_suffix(".html").read_text(encoding="utf-8")
        assert "<!-- table:" not in html
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"([^\"]+)\"", html)
        loaded += re.findall(r"<link[^>]* rel=\"(?:stylesheet|icon|preload)\"[^>]* href=\"([^\"]+)\"", html)
        assert [url for url in loaded if re.match(r"(https?:)?//", url)] == [], name
    for sheet in tmp_path.glob("_static/**/*.css"):
        assert not re.search(r"(?:url\(|@import)[\s\"']*(?:https?:)?//", sheet.read_text()), sheet


# -- published weights


def test_the_site_has_all_published_names() -> None:
    text = page_text("published.md")
    shown = re.findall(r"<tr><td>([^<]+)</td>", text)
    assert shown == names()
    assert '<table class="docutils searchable">' in text
    (row,) = re.findall(r"<tr><td>timm/resnet50.a1_in1k</td>.*</tr>", text)
    assert re.sub(r"<[^>]+>", " ", row).split() == (
        ["timm/resnet50.a1_in1k", "resnet50", "25.6M", "224", "80.4", "classes", "apache-2.0"]
    )
    assert 'data-value="25557032"' in row


def test_all_that_is_left_out_is_there() -> None:
    text = section("published.md", "What is left out")
    for entry in list_left_out():
        assert f"`{entry.name if entry.reason else entry.family}`" in text
        assert (entry.reason or "") in text


@pytest.mark.parametrize("need", trunks.NEEDS)
def test_trunks_that_are_advised(need: str) -> None:
    rows = re.findall(r"^\| `([^`]+)` \| ([\d.]+) \| ([\d.]+) \|", trunks.advise(need), re.MULTILINE)
    assert [name for name, *_ in rows] == list(trunks.NEEDS[need])
    for name, params, _ in rows:
        assert params == f"{published(name).params / 1e6:.1f}"
        assert f"`{name}`" in page_text("which-trunk.md")


@pytest.mark.parametrize("name", ["timm/lcnet_100.ra2_in1k", "torchvision/regnet_x_400mf.IMAGENET1K_V2"])
def test_their_multiply_adds(name: str) -> None:
    assert trunks.count(name) == trunks.macs()[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(trunks.macs()))
def test_the_multiply_adds_of_all(name: str) -> None:
    assert trunks.count(name) == trunks.macs()[name]
