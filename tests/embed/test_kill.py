"""Processes that are killed at any moment, and resumed: every row once, with the values of a whole run."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from classy_vision.embed import embed, load
from tests.embed.test_job import read
from tests.embed.test_sources import make_tar
from tests.train.command import TORCHRUN, start

OPTIONS: dict[str, Any] = {
    "blocks": ["block1"],
    "pooling": ["mean", "map"],
    "heads": ["species"],
    "shard_size": 16,
    "batch_size": 4,
    "device": "cpu",
}
Words = tuple[object, ...]
WORDS: Words = (
    *("--block", "block1", "--pooling", "mean", "--pooling", "map", "--head", "species"),
    *("--shard-size", 16, "--batch-size", 4, "--device", "cpu"),
)


def kill(
    model: Path, source: Path, output: Path, kills: int, seed: int, processes: int = 1, words: Words = WORDS
) -> int:
    """Kills the process group at random moments of its work; returns how many times it was at work then."""
    draw, at_work = random.Random(seed), 0
    arguments = ("embed", model, source, "-o", output, *words)
    for _ in range(kills):
        resume = ("--resume",) if (output / "about.json").is_file() else ()
        process = start(*arguments, *resume, processes=processes, start_new_session=True)
        before = {*output.glob("shard*")}
        deadline = time.monotonic() + 60
        while process.poll() is None and not {*output.glob("shard*"), *output.glob(".shard*")} - before:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draw.random() * 0.05)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            at_work += not (output / "manifest.json").exists()
        process.communicate()
    return at_work


def check_killed(
    model: Path, source: Path, folder: Path, kills: int, seed: int, processes: int = 1, words: Words = WORDS
) -> None:
    embed(model, source, folder / "whole", **OPTIONS)
    at_work = kill(model, source, folder / "out", kills, seed, processes, words)
    assert at_work >= kills // 2
    embed(model, source, folder / "out", **OPTIONS, resume=(folder / "out" / "about.json").is_file())
    assert read(folder / "out") == read(folder / "whole")
    assert (folder / "out/errors.csv").read_bytes() == (folder / "whole/errors.csv").read_bytes()
    assert not list((folder / "out").glob(".*.part"))
    ids = load(folder / "out").ids
    assert len(ids) == len(set(ids)) == load(folder / "out").rows


@pytest.fixture
def damaged(make_images: Callable[..., Path]) -> Path:
    images = make_images(400)
    (images / "dog" / "00300.png").write_bytes(b"damaged")
    return images


def test_a_few_kills(model: Path, damaged: Path, tmp_path: Path) -> None:
    check_killed(model, damaged, tmp_path, kills=2, seed=0)


@pytest.mark.slow
def test_twenty_kills_in_a_folder(model: Path, make_images: Callable[..., Path], tmp_path: Path) -> None:
    images = make_images(3000)
    (images / "dog" / "02000.png").write_bytes(b"damaged")
    check_killed(model, images, tmp_path, kills=20, seed=1)


@pytest.mark.slow
def test_kills_in_tar_files(model: Path, tmp_path: Path) -> None:
    for n in range(30):
        make_tar(tmp_path / "tars" / f"{n:03}.tar", 20, 20 * n)
    last = tmp_path / "tars" / "029.tar"
    last.write_bytes(last.read_bytes()[:9000])
    check_killed(model, tmp_path / "tars", tmp_path, kills=6, seed=2)


@pytest.mark.slow
def test_two_processes_of_torchrun(model: Path, damaged: Path, tmp_path: Path) -> None:
    assert TORCHRUN[-1] == "2"
    check_killed(model, damaged, tmp_path, kills=2, seed=3, processes=2)
