"""All benchmarks, one after the other, into a file: python -m benchmarks [--output FILE] [--quick]

Takes hours on one core: nothing else should run there meanwhile. ``--only`` runs some of them, and
replaces their sections in the file, which must be of the same machine. The file is replaced when all have
run; until then, what is there stands in a file beside it, which ends in ``.part``.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.models import DTYPES
from benchmarks.results import Results, write
from benchmarks.timing import clocked

# title, module, arguments, arguments for a quick look
SECTIONS = [
    ("Import and construction", "construction", [], ["--rounds", "3"]),
    ("Cold start", "cold_start", [], ["--rounds", "2"]),
    ("Inference", "inference", [], ["--rounds", "2", "--no-compile", "--batches", "1"]),
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
    found = []
    torch.set_num_threads(1)
    for short, dtype in DTYPES.items():
        a = torch.randn(2048, 2048).to(dtype)
        milliseconds = min(_product(a) for _ in range(7))
        found.append(f"{2 * 2048**3 / milliseconds / 1e6:.0f} GFLOP/s in {short}")
    return " and ".join(found)


def _product(a: torch.Tensor) -> float:
    return clocked(lambda: torch.mm(a, a))()


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
    return f"`python {' '.join(command[1:])}`, {minutes:.0f} min.\n\n{done.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/RESULTS.md"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing compiled")
    parser.add_argument("--only", nargs="+", choices=[module for _, module, *_ in SECTIONS])
    options = parser.parse_args()
    here, path = machine(), options.output
    remarks = (
        f"A product of two matrices of 2048² reaches {limits()}. "
        f"`make bench` writes this file; what each table means stands in the module that makes it."
    )
    results = Results(here, remarks)
    if options.only and path.is_file():
        try:
            results = Results.read(path.read_text())
            results.check(here)
        except ValueError as error:
            parser.error(f"{path} {error}; --output writes another file")
    found: dict[str, str] = {}
    for title, module, full, quick in SECTIONS:
        if not options.only or module in options.only:
            found[title] = run(module, quick if options.quick else full)
            part = path.with_name(path.name + ".part")
            write(part, Results(here, remarks, found))
    write(path, results.merged(found, [title for title, *_ in SECTIONS]))
    part.unlink()


if __name__ == "__main__":
    main()
