"""All benchmarks, one after the other, into a file: python -m benchmarks [--output FILE] [--quick]

Takes about an hour on two cores: nothing else should run there meanwhile.
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

# title, module, arguments, arguments for a quick look
SECTIONS = [
    ("Import and construction", "construction", [], ["--rounds", "3"]),
    ("Cold start", "cold_start", [], ["--rounds", "2"]),
    ("Inference", "inference", [], ["--rounds", "2", "--no-compile", "--batches", "1"]),
    ("Taps and heads", "heads", [], ["--rounds", "5"]),
    ("Taps, beside the peers", "taps", [], ["--rounds", "5"]),
    ("Training", "training", [], ["--rounds", "2", "--batch", "2"]),
    ("Memory", "memory", [], ["--rounds", "2"]),
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
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.randn(2048, 2048).to(dtype)
        seconds = min(_seconds(a) for _ in range(7))
        found.append(f"{2 * 2048**3 / seconds / 1e9:.0f} GFLOP/s in {str(dtype).removeprefix('torch.')}")
    return " and ".join(found)


def _seconds(a: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.mm(a, a)
    return time.perf_counter() - start


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/RESULTS.md"))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing compiled")
    parser.add_argument("--only", nargs="+", choices=[module for _, module, *_ in SECTIONS])
    options = parser.parse_args()
    parts = [
        "# Results",
        f"{machine()}; one thread. A product of two matrices of 2048² reaches {limits()}. "
        f"`make bench` writes this file; what each table means stands in the module that makes it.",
    ]
    for title, module, full, quick in SECTIONS:
        if options.only and module not in options.only:
            continue
        command = [sys.executable, "-m", f"benchmarks.{module}", *(quick if options.quick else full)]
        print(" ".join(command[1:]), file=sys.stderr, flush=True)
        started = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        minutes = (time.monotonic() - started) / 60
        parts += [f"## {title}", f"`python -m benchmarks.{module}`, {minutes:.0f} min.", done.stdout.strip()]
        beside = options.output.with_suffix(".part")
        beside.write_text("\n\n".join(parts) + "\n")
        os.replace(beside, options.output)


if __name__ == "__main__":
    main()
