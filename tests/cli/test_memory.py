"""Whether a process keeps the memory that it frees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from classy_vision.cli.train import train
from tests.train.command import digits_job, write

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="of glibc"
)
PROGRAM = """
import ctypes, resource
from classy_vision.cli.memory import keep_memory

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block = library.malloc(24 << 20)
        ctypes.memset(block, 1, 24 << 20)
        library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(keep_memory(), count_faults())
"""
OF_A_BLOCK = (24 << 20) // (4 << 10)
"""Pages."""


def run_program(**environment: str) -> tuple[str, int]:
    """What ``keep_memory`` said, and how many pages ten equal blocks took, one after the other."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=clean | environment, capture_output=True, text=True, check=True
    )
    said, faults = done.stdout.split()
    return said, int(faults)


def test_a_freed_block_is_used_again() -> None:
    said, faults = run_program()
    assert said == "True"
    assert faults < 2 * OF_A_BLOCK


@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_MMAP_MAX_": "65536"},
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"},
    ],
)
def test_what_the_user_has_set_stands(environment: dict[str, str]) -> None:
    said, _ = run_program(**environment)
    assert said == "False"


def test_another_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from classy_vision.cli.memory import keep_memory

    monkeypatch.setattr(os, "confstr", lambda name: None)
    assert not keep_memory()


def test_training_keeps_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ReachedError(Exception):
        pass

    def reach() -> None:
        raise ReachedError

    monkeypatch.setattr("classy_vision.cli.train.keep_memory", reach)
    with pytest.raises(ReachedError):
        train(write(tmp_path / "digits.json", digits_job()), tmp_path / "run")
