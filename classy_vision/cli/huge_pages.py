"""Memory in huge pages for training on a CPU."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

TUNABLE = "glibc.malloc.hugetlb"
"""Of glibc since 2.35; 1 asks the kernel for transparent huge pages."""
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""Whom the kernel gives them: "always [madvise] never" means those who ask."""


def use_huge_pages() -> None:
    """Starts this process again, as the same command, with memory in huge pages, where that can be had.

    A step of training on a CPU gives gigabytes of activations back and takes them again. In pages of 4 KiB the
    kernel needs up to a third of the step for that. glibc reads its tunables only when a process starts.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if TUNABLE in tunables or sys.gettrace() or not _can_start_again() or not _are_for_those_who_ask():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))
    sys.stdout.flush()
    with suppress(OSError):  # it trains as it is
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _can_start_again() -> bool:
    """Whether the command is what the process was started with, and not a program on its standard input, which
    has been read, nor what a program or a notebook made up, which would be started from its beginning."""
    words = sys.argv[1:]
    return sys.argv[0] != "-" and sys.orig_argv[len(sys.orig_argv) - len(words) :] == words


def _are_for_those_who_ask() -> bool:
    try:
        return "[madvise]" in SETTING.read_text() and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (OSError, ValueError):  # no Linux, or another C library
        return False
