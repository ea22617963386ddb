"""Every snippet and command on the site runs, and gives what the page says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from classy_vision.config import parse_yaml
from classy_vision.data.config import DataConfig
from classy_vision.data.sources import Records, StrataOf, load_records
from classy_vision.models import build_model, save_weights
from classy_vision.train import TrainConfig, job
from classy_vision.weights.sources import find_file
from docs._ext import pages
from tests.docs.shell import ROOT, furnish, run_shell
from tests.docs.snippets import Block, blocks, run_python

PAGES = pages.names()
LANGUAGES = {"cpp", "python", "yaml", "sh", "console", "text"}
REAL = {
    "add-a-backbone.md",
    "compare.md",
    "configs.md",
    "costs.md",
    "embed.md",
    "evaluate.md",
    "optimize.md",
    "segmentation.md",
    "fine-tune.md",
    "getting-started.md",
    "images.md",
    "in-other-projects.md",
    "imbalance.md",
    "training.md",
    "troubleshooting.md",
    "video.md",
    "weights.md",
}
SLOW = {"deploy.md", "serving.md"}  # they compile
WIDTH = 96  # what a page has room for
PEERS = ROOT / "build" / "peers"  # where `make bench` puts timm


@pytest.fixture
def folder(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with what the page names; modules that it shows are gone after it."""
    furnish(tmp_path, page)
    if page == "fine-tune.md":
        _publish(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(job, "load_records", few_records)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # what runs here is small, and beside other tests
    before = set(sys.modules)
    yield tmp_path
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def _publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights stand for those that the page downloads."""
    name = "torchvision/regnet_y_400mf.IMAGENET1K_V2"
    file = folder / "regnet_y_400mf.safetensors"
    save_weights(build_model(name), file, layout="torchvision")
    for module in ("classy_vision.trunk.loading", "classy_vision.train.job"):
        monkeypatch.setattr(f"{module}.find_file", lambda given: file if given == name else find_file(given))


def few_records(data: DataConfig, strata: StrataOf | None = None) -> Records:
    """The records of a source, or where there are many of them, every twentieth."""
    found = load_records(data, strata)
    if len(found.images) < 1000:
        return found
    columns = {name: cells[::20] for name, cells in found.columns.items()}
    return replace(found, images=found.images[::20], columns=columns, held_out=found.held_out[::20])


def cases() -> Iterator[Any]:
    """Where shapes are all that a page shows, the quick run leaves out the arithmetic."""
    for page in PAGES:
        real = page in REAL
        if page not in SLOW:
            yield pytest.param(page, "cpu" if real else "meta", id=page)
        if not real:
            yield pytest.param(page, "cpu", marks=pytest.mark.slow, id=f"{page}, with data")


@pytest.mark.parametrize(("page", "device"), list(cases()))
def test_what_a_page_shows(page: str, device: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.device(device):
        run_page([block for block in blocks(page) if not needs_a_peer(block)], capsys)


def run_page(shown: list[Block], capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "page"}
    for block in shown:
        if block.file:
            Path(block.file).write_text(block.text)
        if block.language in ("sh", "console"):
            run_shell(block, capsys)
        elif block.language == "yaml":
            check_config(parse_yaml(block.text))
        elif block.language == "python" and not block.file:
            run_python(block, names)


def check_config(config: Any) -> None:
    """A model config can be built, a training config read."""
    if config and "model" in config:
        TrainConfig.parse(config)
    elif config:
        build_model(config)


def needs_a_peer(block: Block) -> bool:
    return block.caption in ("timm", "segmentation_models_pytorch") or "timm." in block.text


@pytest.mark.slow
def test_timm_gives_what_we_say_it_does() -> None:
    """In a process of its own, since timm brings torchvision, and only where `make bench` has put it."""
    if not PEERS.is_dir():
        pytest.skip("timm is not there: make bench installs it beside the environment")
    code = (
        "import benchmarks.peers\n"
        "from tests.docs.snippets import blocks, run_python\n"
        "names = {'__name__': 'page'}\n"
        "for block in blocks('from-timm.md'):\n"
        "    block.language == 'python' and run_python(block, names)\n"
    )
    paths = [str(ROOT), str(PEERS), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_known_and_fit(page: str) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, block.place
        wide = [line for line in block.text.splitlines() if len(line) > WIDTH]
        assert wide == [], block.place


RIGHT = """
import torch
x = torch.ones(2, 3)
x  # (2, 3)
{"a": [1, 2, x]}  # {"a": [1, ..., (2, 3)]}
[x, x.shape]
# [(2, 3),
#  (2, 3)]
1 / 8  # 0.125
int("a")  # ValueError: invalid literal
"""


def test_comments_are_checked() -> None:
    names: dict[str, Any] = {}
    run_python(Block("python", RIGHT, "here:1"), names)
    for wrong in (
        "x  # (3, 2)",
        "x\n# (3, 2)",
        "[1, 2]  # [1, ..., 3]",
        "0.5  # 0.6",
        "int('a')  # ValueError: no",
    ):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            run_python(Block("python", wrong, "here:1"), names)
