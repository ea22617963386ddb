"""The page docs/add-a-backbone.md, followed in a package: a folder, an import line, a row of small configs."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from classy_vision.models import build_model
from classy_vision.trunk.sequence import told_channels
from tests.models import small, test_classy_model, test_matrix
from tests.trunk import test_trunk

PAGE = Path(__file__).parents[2] / "docs" / "add-a-backbone.md"
FAMILY = "convmixer"


def blocks_of_page() -> list[str]:
    """The Python code blocks of the page, without their options."""
    found = re.findall(
        r"^( *)```\{code-block\} python\n(.*?)^ *```", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    return [dedent(re.sub(r"^ *:caption:.*\n", "", block, flags=re.MULTILINE)) for _, block in found]


@pytest.fixture
def _backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    model, row = blocks_of_page()
    package = tmp_path / "backbones" / FAMILY
    package.mkdir(parents=True)
    (package / "model.py").write_text(model)
    (package / "__init__.py").write_text(f"from backbones.{FAMILY}.model import ConvMixer as ConvMixer\n")
    (tmp_path / "backbones" / "__init__.py").write_text(f"import backbones.{FAMILY}\n")  # the import line
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("backbones")
    monkeypatch.setitem(small.FAMILIES, FAMILY, ast.literal_eval(f"{{{row}}}")[FAMILY])
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "backbones"]:
        del sys.modules[name]


CONTRACT: list[Callable[..., Any]] = [
    test_classy_model.test_output_without_heads_is_the_end_of_the_trunk,
    test_classy_model.test_output_of_one_head_and_of_several,
    test_classy_model.test_features_agree_with_the_walk_for_every_name,
    test_classy_model.test_nothing_runs_behind_the_deepest_block_that_is_read,
    test_classy_model.test_heads_change_no_trunk_key,
    test_trunk.test_families,
]


@pytest.mark.usefixtures("_backbone")
@pytest.mark.parametrize("contract", CONTRACT, ids=lambda test: test.__name__)
def test_every_family_does(contract: Callable[..., Any]) -> None:
    contract(FAMILY)


@pytest.mark.usefixtures("_backbone")
@pytest.mark.parametrize(
    "check", [test_matrix.test_copies_after_a_step, test_matrix.test_state_dict_goes_around]
)
def test_every_family_does_with_every_head(check: Callable[..., Any]) -> None:
    for head in small.HEADS:
        check(FAMILY, head)


@pytest.mark.usefixtures("_backbone")
def test_what_it_adds_is_told() -> None:
    model = build_model("convmixer_768_32", depth=2)
    assert dict(told_channels(model)) == dict.fromkeys(("stem", "block0", "block1", "trunk_output"), 768)
