"""What the README shows is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from classy_vision.cli import COMMANDS
from classy_vision.models import ClassyModel, build_model
from classy_vision.weights.catalogue import names, published
from classy_vision.weights.state import StateError

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def test_the_python_example() -> None:
    scope: dict[str, Any] = {}
    exec(EXAMPLES[0], scope)
    model, images = scope["model"], scope["images"]
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


def test_the_example_with_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StateError, match=re.escape("skip_heads=['default_head']")):
        exec(EXAMPLES[1], {"build_model": build_model})
    assert "not in the file: 1 head (default_head)" in capsys.readouterr().out
    for name in re.findall(r'`"((?:timm|torchvision)/[^"]+)"`', TEXT):
        assert published(name)
    counts = [name.partition("/")[0] for name in names()]
    table = f"{counts.count('timm')} of timm's, {counts.count('torchvision')} of torchvision's"
    assert table in TEXT


def test_the_quick_model() -> None:
    scope: dict[str, Any] = {"build_model": build_model, "torch": torch, "images": torch.randn(4, 3, 64, 64)}
    exec(EXAMPLES[2], scope)
    with torch.inference_mode():
        assert scope["fast"](scope["images"]).shape == (4, 10)
    assert len(EXAMPLES) == 3


def test_every_command_is_there() -> None:
    assert set(re.findall(r"^classy ([\w-]+)", TEXT, re.M)) <= set(COMMANDS)


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "docs/design.md"])
def test_links_and_targets_exist(file: str) -> None:
    text = (ROOT / file).read_text()
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / file).parent.joinpath(link).exists(), link
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^make ([\w-]+)", text, re.M)) <= targets
    assert not re.search(r"@\w+@", text)
