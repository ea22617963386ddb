"""How everything here is timed: contenders take turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
Run = Callable[[], float]
"""Does something once, and gives the milliseconds that it took."""


def take_turns(calls: Mapping[K, Callable[[], T]], rounds: int, warmup: int = 1) -> dict[K, list[T]]:
    """What each call gives, round by round: A B C, B C A, … so that nobody always comes behind the same
    one, whose traces are in the caches. The first ``warmup`` rounds do not count."""
    found: dict[K, list[T]] = {name: [] for name in calls}
    names = list(calls)
    for turn in range(warmup + rounds):
        first = turn % max(1, len(names))
        for name in names[first:] + names[:first]:
            value = calls[name]()
            if turn >= warmup:
                found[name].append(value)
    return found


def clocked(call: Callable[[], object]) -> Run:
    """``call``, timed."""

    def run() -> float:
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)

    return run


def medians(runs: Mapping[K, Run], rounds: int, warmup: int = 1) -> dict[K, float]:
    """Milliseconds of each, which take turns."""
    return {name: statistics.median(values) for name, values in take_turns(runs, rounds, warmup).items()}


class Ratio(NamedTuple):
    """Median and quartiles of what two contenders took, one over the other, round by round: what slows a
    machine down for a round slows both."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Of the rounds of two contenders."""
    values = [one / other for one, other in zip(above, below, strict=True)]
    values *= 2 if len(values) == 1 else 1  # quartiles take two
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Ratio(median, low, high)


def own_process(module: str, *arguments: object, env: Mapping[str, str] | None = None) -> Any:
    """What ``benchmarks.<module>`` prints as its last line, in JSON; in a fresh process."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # it has said why
        raise SystemExit(f"{' '.join(command[1:])} failed with status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])
