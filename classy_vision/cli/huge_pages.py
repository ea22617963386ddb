"""Memory in huge pages for training on a CPU."""

from __future__ import annotations

import os
import sys
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
    tunables, arguments = os.environ.get("GLIBC_TUNABLES", ""), sys.argv[1:]
    is_own_process = sys.orig_argv[-len(arguments) :] == arguments  # not within that of somebody who calls us
    if TUNABLE in tunables or not is_own_process or sys.gettrace() or not _are_for_those_who_ask():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{TUNABLE}=1"]))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _are_for_those_who_ask() -> bool:
    try:
        return "[madvise]" in SETTING.read_text() and "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (OSError, ValueError):  # no Linux, or another C library
        return False
