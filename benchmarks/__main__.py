"""All benchmarks, one after the other, into a file: python -m benchmarks [--output FILE] [--quick]

Takes hours on one core: nothing else should run there meanwhile. Sections replace those of the same
titles in the file, if it is of the same machine; ``--only`` runs some of them. The file is replaced when all
have run. Until then, results stand in a file beside it, which ends in ``.part``: a run that was broken off
goes on from there with ``--only`` what is missing.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.kernels import limits as peaks
from benchmarks.results import Results, write

DEFAULT = Path("benchmarks/RESULTS.md")

# title, module, arguments, arguments for a quick look
SECTIONS = [
    ("Import and construction", "construction", [], ["--rounds", "3"]),
    ("Cold start", "cold_start", [], ["--rounds", "2"]),
    ("Inference", "inference", [], ["--rounds", "2", "--no-compile", "--batches", "1"]),
    ("Engines", "engines", [], ["--rounds", "5", "resnet50"]),
    ("Batch, resolution and depth", "scaling", [], ["--only", "depth", "--rounds", "2"]),
    ("Int8", "int8", [], ["--seconds", "1"]),
    ("Taps and heads", "heads", [], ["--rounds", "5"]),
    ("Taps, beside the peers", "taps", [], ["--rounds", "5"]),
    ("Training", "training", [], ["--compile", "--rounds", "2", "--batch", "2"]),
    ("Memory", "memory", [], ["--rounds", "2"]),
    ("Kernels", "kernels", [], ["--rounds", "1", "--batch", "1"]),
]


def machine() -> str:
    """Processor, memory and versions."""
    cpu = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return (
        f"{cpu}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, "
        f"{memory / 2**20:.0f} GiB; Python {platform.python_version()}, torch {torch.__version__}"
    )


def limits() -> str:
    """What a product of two matrices of 2048² reaches here: no layer is quicker."""
    torch.set_num_threads(1)
    return " and ".join(f"{operations / 1e6:.0f} GFLOP/s in {short}" for short, operations in peaks().items())


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def run(module: str, arguments: list[str]) -> str:
    """A section's text."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    print(" ".join(command[1:]), file=sys.stderr, flush=True)
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:  # it has said why
        raise SystemExit(f"{' '.join(command[1:])} failed with status {done.returncode}")
    minutes = (time.monotonic() - started) / 60
    return f"`python {' '.join(command[1:])}`, {minutes:.0f} min{commit()}.\n\n{done.stdout.strip()}"


def commit() -> str:
    """Of the code that was timed, where that is known."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    with suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True)
        return f", at {done.stdout.strip()}" if done.returncode == 0 else ""
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing compiled")
    parser.add_argument("--only", nargs="+", choices=[module for _, module, *_ in SECTIONS])
    options = parser.parse_args()
    path: Path = options.output
    part, here = path.with_name(path.name + ".part"), machine()
    if options.quick and path == DEFAULT:
        parser.error(f"a quick look is not for {DEFAULT}: --output writes another file")
    try:
        results = begun(part, path, here, bool(options.only))
    except ValueError as error:
        parser.error(f"{error}; --output writes another file")
    for title, module, full, quick in SECTIONS:
        if not options.only or module in options.only:
            section = run(module, quick if options.quick else full)
            results = results.merged({title: section}, [title for title, *_ in SECTIONS])
            write(part, results)
    os.replace(part, path)


def begun(part: Path, path: Path, here: str, adds: bool) -> Results:
    """What is added to: an unfinished run's results, else those of ``path``, where they are of this machine.

    Raises:
        ValueError: sections are to be added to what is no results of this machine.
    """
    for file in (part, path):
        if file.is_file():
            try:
                results = Results.read(file.read_text())
                results.check(here)
            except ValueError as error:
                if adds or file is part:
                    raise ValueError(f"{file} {error}") from None
            else:
                return results
    remarks = (
        f"A product of two matrices of 2048² reaches {limits()}. "
        f"`make bench` writes this file; what each table means stands in the module that makes it."
    )
    return Results(here, remarks)


if __name__ == "__main__":
    main()
