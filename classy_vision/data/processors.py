"""What the machine offers."""

from __future__ import annotations

import os


def processors() -> int:
    """Those that this process may use: a container has fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
