"""Files that are damaged at random, over all readers: an error or success, soon, and in little memory."""

from __future__ import annotations

import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzzing import KINDS, MARK, make_seeds, mutate

COUNT = 3000
SECONDS = 10
"""That the processor may work on one file."""
PATIENCE = 120
"""Seconds on the clock, where others use the processor too."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    seeds = make_seeds_in(tmp_path)
    files = {}
    for number in range(COUNT):
        kind = list(KINDS)[number % len(KINDS)]
        files[number] = tmp_path / str(number) / kind / seeds[kind].name
        files[number].parent.mkdir(parents=True)
        files[number].write_bytes(mutate(seeds[kind].read_bytes(), random.Random(number)))
    outcomes = read_in_processes(tmp_path, COUNT)
    bad = [
        f"{number} ({files[number].parent.name}) {outcome}"
        for number, outcome in outcomes.items()
        if not outcome.startswith(("is read", "is refused"))
    ]
    assert sorted(outcomes) == list(range(COUNT))
    assert not bad, "\n".join([f"{len(bad)} files", *bad])
    refused = Counter(
        files[n].parent.name for n, outcome in outcomes.items() if outcome.startswith("is refused")
    )
    # Metrics are left out of a table, and weights of a graph are any numbers.
    assert all(refused[kind] for kind in KINDS if kind not in ("metrics", "openvino weights")), refused


def make_seeds_in(folder: Path) -> dict[str, Path]:
    """The valid files, in their folder."""
    (folder / "seeds").mkdir()
    return make_seeds(folder / "seeds")


def read_in_processes(folder: Path, count: int) -> dict[int, str]:
    """What came of each file; a process that hangs or dies makes place for the next."""
    outcomes: dict[int, str] = {}
    while (first := len(outcomes)) < count:
        _read_from(folder, first, outcomes)
    return outcomes


def _read_from(folder: Path, first: int, outcomes: dict[int, str]) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzzing", str(folder), str(first)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines: queue.Queue[str] = queue.Queue()
    errors: list[str] = []
    assert worker.stdout
    assert worker.stderr
    threads = [
        threading.Thread(target=lambda: [lines.put(line) for line in worker.stdout or ()], daemon=True),
        threading.Thread(target=lambda: errors.extend(worker.stderr or ()), daemon=True),
    ]
    for thread in threads:
        thread.start()
    ended = _watch(worker, lines, outcomes)
    worker.kill()
    worker.wait()
    for thread, pipe in zip(threads, (worker.stdout, worker.stderr)):
        thread.join()
        pipe.close()
    if ended:
        outcomes.setdefault(len(outcomes), f"{ended} {''.join(errors)[-500:]!r}")


def _watch(worker: subprocess.Popen[str], lines: queue.Queue[str], outcomes: dict[int, str]) -> str:
    """Notes what the process says; how it ended where that was in the middle of a file."""
    current, began, worked = "", time.monotonic(), 0.0
    while True:
        try:
            mark, number, said = (*lines.get(timeout=0.2).strip().split(" ", 2), "", "")[:3]
        except queue.Empty:
            if worker.poll() is not None and lines.empty():
                return f"kills the process ({worker.returncode})" if current or worker.returncode else ""
            if current and (_cpu(worker) - worked > SECONDS or time.monotonic() - began > PATIENCE):
                return "hangs"
            continue
        if mark != MARK:  # a library's own words
            continue
        if said == "begins":
            current, began, worked = number, time.monotonic(), _cpu(worker)
        elif number.isdigit():
            outcomes[int(number)] = said
            current = ""


def _cpu(worker: subprocess.Popen[str]) -> float:
    """Seconds that the processor worked for it."""
    try:
        fields = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
