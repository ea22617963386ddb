"""The commands on the site's pages, run in a folder that has what they speak of, and shortened."""

from __future__ import annotations

import doctest
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from classy_vision.cli import main
from classy_vision.heads import HEADS
from classy_vision.models import MODELS
from tests.data.videos import make_videos
from tests.docs.snippets import Block
from tests.train.conftest import COLOURS

ROOT = Path(__file__).parents[2]
OUTPUT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
TORCHRUN = re.compile(r"^(\w+=\w+ )?(torchrun|accelerate launch) [-\w ]*?-m classy_vision\.cli")
RAY = re.compile(r" --engine ray(?: --actors \d+)?")
DONE = "is finished: all"
"""What resuming says of a run that was not interrupted."""

# What makes a training of minutes one of seconds.
SHORT = ("schedule.epochs=1", "schedule.warmup_epochs=0")
SMALL = (*SHORT, "schedule.batch_size=4", "schedule.workers=0", "data.image_size=32", "data.resize=32")
CLIPS = (*SMALL, "data.clip.frames=4", "data.clip.clips=1")


def furnish(folder: Path, page: str) -> None:
    """Puts into ``folder`` what the commands of a page name: the repository's files, and data."""
    (folder / "examples").symlink_to(ROOT / "examples")
    shutil.copytree(ROOT / "configs", folder / "configs")
    rows = ["path,split,species,habits,weight"]
    for n in range(16):
        split, kind = ("val" if n % 4 == 0 else "train"), ("daisy", "tulip")[n // 8]
        _image(folder / "flowers" / split / kind / f"{n}.png", n)
        _image(folder / "img" / f"{n}.png", n)
        species, habits = (("heron", "wading;flying"), ("owl", ";"))[n // 2 % 2]
        rows.append(f"img/{n}.png,{split},{species},{habits},{n / 8}")
    (folder / "birds.csv").write_text("\n".join(rows) + "\n")
    if page == "video.md":
        make_videos(folder / "sports", train=2, val=1, frames=12)
    for name in ("flowers", "img", "birds.csv", "sports"):  # paths in a config start beside it
        (folder / "configs" / name).symlink_to(folder / name)


def _image(file: Path, n: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40 + n, 36), COLOURS[n % 3]).save(file)


def run_shell(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs the commands of a block; of a ``console`` block, compares what they print."""
    for command, printed in _commands(block):
        wanted = 2 if printed.startswith("error:") else 0
        code, output = _run(command, capsys)
        assert code == wanted or DONE in output, f"{block.place}: {command}\n{output}"
        if printed:
            matches = doctest.OutputChecker().check_output(printed, output, OUTPUT)
            assert matches, f"{block.place}: {command}\n{output}"


def _commands(block: Block) -> Iterator[tuple[str, str]]:
    """The commands, and what the page says they print."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, printed = part.partition("\n")
            yield command, printed
    else:
        for line in text.splitlines():
            if command := re.split(r"(?:^|\s+)#\s", line)[0].strip():
                yield command, ""


def _run(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the output of a command; what it names where it would install something."""
    program, *arguments = shlex.split(RAY.sub("", TORCHRUN.sub("classy", command)))
    arguments = [path for word in arguments for path in _matches(word)]
    if program == "classy":
        return _main(main, ["classy", *_shortened(arguments)], capsys)
    if program == "python":
        script, *rest = arguments
        return _main(lambda: _as_script(script), [script, *_shortened(rest)], capsys)
    _CHECKS[program](arguments)
    return 0, ""


def _matches(word: str) -> list[str]:
    return sorted(map(str, Path().glob(word))) if "/*." in word else [word]


def _shortened(arguments: list[str]) -> list[str]:
    if arguments[0] == "sample":
        return [*arguments, "-n", "2"]
    if arguments[0] != "train":
        return arguments
    if "--resume" in arguments:  # after the one epoch that it was shortened to
        return [re.sub(r"^schedule\.epochs=\d+$", "schedule.epochs=2", word) for word in arguments]
    source = Path(arguments[1]).read_text()
    built_in = "source: digits" in source or "source: scenes" in source
    changes = SHORT if built_in else CLIPS if "clip:" in source else SMALL
    return [*arguments, *(word for change in changes for word in ("--set", change))]


def _main(start: Callable[[], object], argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Runs a command line in this process, since importing torch takes seconds in a new one."""
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        patch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as stopped:
            start()
    return int(stopped.value.code or 0), "".join(capsys.readouterr())


def _as_script(file: str) -> None:
    with fresh_registries():
        runpy.run_path(file, run_name="__main__")


@contextmanager
def fresh_registries() -> Iterator[None]:
    """What a page has registered so far is unknown inside, as in a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in (HEADS, MODELS):
            ours = {k: e for k, e in registry._entries.items() if e.cls.__module__.startswith("classy_vision.")}
            patch.setattr(registry, "_entries", ours)
        yield


def _make(arguments: list[str]) -> None:
    assert set(arguments) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _pip(arguments: list[str]) -> None:
    command, target = arguments
    assert command == "install"
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    assert set(re.findall(r"\w+", target.partition("[")[2])) <= extras


_CHECKS = {"make": _make, "pip": _pip}
