"""A Lance dataset has every row once, or is not there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from classy_vision.cli import app
from classy_vision.embed import embed, lance_copy, load
from classy_vision.embed.folder import Folder

needs_lance = pytest.mark.skipif(find_spec("lance") is None, reason="pylance is not installed")


@pytest.fixture
def options(model: Path, make_images: Any, tmp_path: Path) -> dict[str, Any]:
    given = {"model": model, "source": make_images(10), "output": tmp_path / "out", "shard_size": 4}
    return {**given, "blocks": ["block1"], "pooling": ["mean", "map"], "device": "cpu"}


def check_same(folder: Path) -> None:
    import lance

    stored, found = load(folder), lance.dataset(folder / "embeddings.lance").to_table()
    assert found["id"].to_pylist() == stored.ids
    assert found["label"].to_pylist() == stored.column("label")
    for name in stored:
        values = np.stack(found[name].to_numpy()).reshape(stored.shape(name))
        np.testing.assert_array_equal(values, stored[name])


@needs_lance
def test_all_rows_are_there(options: dict[str, Any]) -> None:
    folder = embed(**options, dtype="float16", lance=True).folder
    check_same(folder)
    embed(**options, dtype="float16", lance=True, resume=True)
    check_same(folder)
    embed(**options, force=True)
    assert not (folder / "embeddings.lance").exists()


@needs_lance
def test_a_kill_while_it_is_written(options: dict[str, Any], tmp_path: Path) -> None:
    """The whole process dies at the last shard; the command that continues writes the dataset anew."""
    code = (
        "import os, signal, sys\n"
        "from classy_vision.embed import embed, lance_copy\n"
        "read = lance_copy.ParquetFile\n"
        "def die(file):\n"
        "    if file.name == 'shard-000002.parquet': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(file)\n"
        "lance_copy.ParquetFile = die\n"
        "how = {'blocks': ['block1'], 'pooling': ['mean', 'map'], 'device': 'cpu', 'lance': True}\n"
        "embed(*sys.argv[1:], shard_size=4, **how)"
    )
    words = [sys.executable, "-c", code, *(str(options[name]) for name in ("model", "source", "output"))]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "out/manifest.json").exists()
    assert not (tmp_path / "out/embeddings.lance").exists()
    found = embed(**options, lance=True, resume=True)
    assert found.new == 0
    check_same(found.folder)
    assert not [*(tmp_path / "out").glob(".*.part")]


def test_a_kill_while_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there with all rows, or not at all."""
    (tmp_path / "embeddings.lance" / "data").mkdir(parents=True)

    def die(path: Path, **_: Any) -> None:
        if path.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            Folder(tmp_path).clear()
    assert not (tmp_path / "embeddings.lance").exists()
    Folder(tmp_path).clean()
    assert not [*tmp_path.iterdir()]


def test_without_lance_nothing_is_done(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance_copy, "find_spec", lambda _: None)
    words = ["embed", str(options["model"]), str(options["source"]), "-o", str(tmp_path / "out"), "--lance"]
    done = CliRunner().invoke(app, words)
    assert "pip install 'classy-vision-models[lance]'" in str(done.exception)
    assert not (tmp_path / "out").exists()
