"""Memory of the machine: what is free, and what a call takes at most."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from classy_vision.config import ConfigError
from classy_vision.cost.costs import Costs
from classy_vision.text import human

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def find_free(device: torch.device) -> int | None:
    """Returns the free bytes; None if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [bytes_ for bytes_ in (_read_available(), _read_allowance()) if bytes_ is not None]
    return min(known, default=None)


def _read_available() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _read_allowance() -> int | None:
    """Reads the limit of a container, less what it uses."""
    try:
        limit, taken = ((_CGROUP / f"memory.{name}").read_text() for name in ("max", "current"))
        return int(limit) - int(taken)
    except (OSError, ValueError):  # no container, or one without a limit
        return None


def check_fits(costs: Costs, batch: int, dtype: str, device: torch.device, training: bool = False) -> None:
    """Raises a ConfigError if the model needs more memory than is free."""
    needed = costs.memory(batch, dtype, training, device.type).peak
    available = find_free(device)
    if available is not None and needed > available:
        name = "the model" if costs.model is None else type(costs.model).__name__
        raise ConfigError(
            f"{name} needs about {human(needed)}B of memory for a batch of {batch} in {dtype}, and "
            f"{human(max(available, 0))}B are free on {device}: take a smaller batch, input or type"
        )


def measure_peak(call: Callable[[], object], device: torch.device) -> int:
    """Returns the most bytes that ``call`` takes at a time from torch's allocator.

    On a GPU, what was allocated before counts; on the CPU it does not.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device)
    from torch.profiler import ProfilerActivity, profile

    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it would write its progress to the terminal
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    taken = most = 0
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        taken += event.nbytes()
        most = max(most, taken)
    return most
