"""Whether and how a command starts again with memory in huge pages."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from classy_vision.cli import huge_pages

Started = list[tuple[str, list[str]]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    """The commands that were started, on a Linux that gives huge pages to those who ask."""
    calls: Started = []
    monkeypatch.setattr(os, "execv", lambda path, argv: calls.append((path, argv)))
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.39")
    monkeypatch.setattr(sys, "gettrace", lambda: None)  # which coverage sets
    monkeypatch.setattr(sys, "argv", ["classy", "train", "job.yaml"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "classy_vision.cli", "train", "job.yaml"])
    monkeypatch.setattr(huge_pages, "SETTING", tmp_path / "enabled")
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    monkeypatch.setattr(sys, "argv", ["classy", "train", "job.yaml"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "classy_vision.cli", "train", "job.yaml"])
    huge_pages.SETTING.write_text("always [madvise] never\n")
    return calls


def test_the_same_command_starts_again_once(started: Started) -> None:
    huge_pages.use_huge_pages()
    assert started == [(sys.executable, [sys.executable, "-m", "classy_vision.cli", "train", "job.yaml"])]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    huge_pages.use_huge_pages()
    assert len(started) == 1


def test_other_tunables_stay(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    huge_pages.use_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.check=1:glibc.malloc.hugetlb=1"


def test_a_choice_of_the_user_stands(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    huge_pages.use_huge_pages()
    assert not started


@pytest.mark.parametrize("setting", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_nothing_starts_where_asking_changes_nothing(started: Started, setting: str | None) -> None:
    huge_pages.SETTING.unlink() if setting is None else huge_pages.SETTING.write_text(setting)
    huge_pages.use_huge_pages()
    assert not started


def test_another_c_library(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "confstr", lambda name: None)
    huge_pages.use_huge_pages()
    assert not started


def test_a_process_that_calls_the_command_is_left_alone(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "notebook.py", "--port", "8888"])
    huge_pages.use_huge_pages()
    assert not started


def test_a_debugger_keeps_its_process(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "gettrace", lambda: object())
    huge_pages.use_huge_pages()
    assert not started


@pytest.mark.parametrize(
    ("argv", "orig_argv"),
    [
        (["-", "train", "job.yaml"], ["python", "-", "train", "job.yaml"]),  # a program on standard input
        (["classy", "train", "job.yaml"], ["python", "-m", "ipykernel_launcher", "-f", "kernel.json"]),
    ],
)
def test_what_cannot_start_again_goes_on(
    argv: list[str], orig_argv: list[str], started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    huge_pages.use_huge_pages()
    assert not started


def test_a_failed_start_goes_on(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, argv: list[str]) -> None:
        raise OSError(errno.E2BIG, "Argument list too long")

    monkeypatch.setattr(os, "execv", fail)
    huge_pages.use_huge_pages()


def test_a_real_process(tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never\n")
    code = (
        "import os; from pathlib import Path; from classy_vision.cli import huge_pages;"
        f"huge_pages.SETTING = Path({str(setting)!r}); huge_pages.use_huge_pages();"
        "print(os.getpid(), os.environ['GLIBC_TUNABLES'])"
    )
    if not (sys.platform == "linux" and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")):
        pytest.skip("glibc has tunables")
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    with subprocess.Popen(
        [sys.executable, "-c", code, "train"], env=env, stdout=subprocess.PIPE, text=True
    ) as process:
        said, _ = process.communicate(timeout=60)
    assert said.split() == [str(process.pid), "glibc.malloc.hugetlb=1"]
