"""Memory that a process keeps."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""What ``mallopt`` of glibc calls them."""
_CHOICES = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_"
"""The variables of the environment that set them."""
LARGEST = 32 << 20
"""The bytes of the largest block that is kept: glibc takes no more."""


def keep_memory() -> bool:
    """Lets this process keep the memory that it has freed, for what it allocates next; says whether it does.

    A step of training on a CPU frees gigabytes of activations and allocates them again. glibc gives large
    blocks back to the kernel at once, which must clear each of their pages when they are asked for again: that
    takes a sixth to a half of a step. Only blocks above 32 MiB still go back: where smaller ones have settled
    among those, the memory of the process grows by up to a fifth. Settings in the environment are left as they
    are. Source: mallopt(3).
    """
    if sys.platform != "linux" or any(name in os.environ for name in _CHOICES):
        return False
    try:
        is_glibc = "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except ValueError:  # which another C library has no name for
        return False
    if not is_glibc or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    return all([library.mallopt(_MMAP_THRESHOLD, LARGEST), library.mallopt(_TRIM_THRESHOLD, -1)])
