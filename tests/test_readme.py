"""What the README shows is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from classy_vision.models import ClassyModel

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_the_python_example() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    model, images = names["model"], names["images"]
    assert isinstance(model, ClassyModel)
    assert {head: tuple(x.shape) for head, x in model(images).items()} == {
        "blurred": (4, 2),
        "species": (4, 120),
    }
    assert [tuple(x.shape) for x in model.features(images, ["block1", "block3"]).values()] == [
        (4, 48, 56, 56),
        (4, 336, 14, 14),
    ]
    assert model.block_names[:4] == ["stem", "block1-0", "block1-1", "block1"]
    info = model.feature_info(["block3"])["block3"]
    assert (info.channels, info.stride) == (336, 16)


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "docs/design.md"])
def test_links_and_targets_exist(file: str) -> None:
    text = (ROOT / file).read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / file).parent.joinpath(link).exists(), link
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([\w-]+)", text, re.M)) <= targets
    assert not re.search(r"@\w+@", text)
