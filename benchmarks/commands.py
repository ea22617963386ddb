"""CPU seconds of everyday commands: python -m benchmarks.commands

User and system time of a whole process, the median of several, beside what such a command cannot do without.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPEATS = 5
CLASSY = [sys.executable, "-m", "classy_vision.cli"]
RUNTIME = """
import numpy, onnxruntime
session = onnxruntime.InferenceSession("digits.onnx", providers=["CPUExecutionProvider"])
session.run(None, {"images": numpy.zeros((1, 1, 16, 16), numpy.float32)})
"""
ROOT = Path(__file__).parents[1]
IMAGE = str(ROOT / "examples" / "digits" / "3.png")

# what: command line, and the exit code that it has
COMMANDS: dict[str, tuple[list[str], int]] = {
    "python": ([sys.executable, "-c", "pass"], 0),
    "import torch": ([sys.executable, "-c", "import torch"], 0),
    "onnxruntime alone, one image": ([sys.executable, "-c", RUNTIME], 0),
    "classy --help": ([*CLASSY, "--help"], 0),
    "classy list": ([*CLASSY, "list"], 0),
    "classy show none.yaml (no such file)": ([*CLASSY, "show", "none.yaml"], 2),
    "classy show resnte50 (no such model)": ([*CLASSY, "show", "resnte50"], 2),
    "classy train none.yaml (no such file)": ([*CLASSY, "train", "none.yaml"], 2),
    "classy predict digits.onnx, one image": ([*CLASSY, "predict", "digits.onnx", IMAGE], 0),
    "classy predict RUN, one image": ([*CLASSY, "predict", "run", IMAGE], 0),
    "classy show resnet50": ([*CLASSY, "show", "resnet50"], 0),
}


def seconds(command: list[str], code: int, folder: Path) -> float:
    """User and system time of a command, run in ``folder``."""
    before = os.times()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    after = os.times()
    assert done.returncode == code, done.stderr
    return after.children_user - before.children_user + after.children_system - before.children_system


def prepare(folder: Path) -> None:
    """Puts a run and an exported file into ``folder``."""
    config = str(ROOT / "configs" / "digits.yaml")
    short = ["--set", "schedule.epochs=1", "--set", "schedule.warmup_epochs=0"]
    for command in (
        ["train", config, "--output", "run", *short],
        ["export", "run", "--format", "onnx", "--output", "digits.onnx"],
    ):
        subprocess.run([*CLASSY, *command], cwd=folder, check=True, capture_output=True)


def main() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        for what, (command, code) in COMMANDS.items():
            found = [seconds(command, code, Path(name)) for _ in range(REPEATS)]
            print(f"{what:40} {statistics.median(found):6.2f} s", flush=True)


if __name__ == "__main__":
    main()
