"""How long it takes to import a library and to build its models.

    python -m benchmarks.construction [--rounds 7] [--threads 1]

Imports are timed in fresh processes, beyond ``import torch``. Models are built with random weights,
as their libraries initialise them. Contenders take turns; medians are shown. The original is no peer in
the table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

import torch

from benchmarks import original
from benchmarks.models import builders
from benchmarks.tables import about, header, row
from benchmarks.timing import clocked, medians, take_turns

MODELS = (
    "resnet50",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "regnet_y_1.6gf",
    "regnet_y_32gf",
    "densenet121",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b7",
    "vit_b_16",
    "vit_l_16",
)
IMPORTS = {
    "classy_vision.models": "import classy_vision.models",
    "timm": "import benchmarks.operators, timm",
    "torchvision.models": "import benchmarks.operators, torchvision.models",
}


def import_seconds(statement: str, env: Mapping[str, str]) -> float:
    """Of ``statement`` in a fresh process, beyond torch."""
    code = f"import torch, time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def imports(rounds: int) -> None:
    """A table of what importing takes."""
    calls = {name: partial(import_seconds, statement, os.environ) for name, statement in IMPORTS.items()}
    if original.there():
        statement = IMPORTS["classy_vision.models"]
        calls[f"{original.NAME}'s classy_vision.models"] = partial(
            import_seconds, statement, original.environment()
        )
    print(header("import", "seconds beyond torch"))
    for name, values in take_turns(calls, rounds).items():
        print(row([name, f"{statistics.median(values):.2f}"]))


def construction(rounds: int) -> None:
    """A table of what building takes."""
    columns = ("ours", "torchvision", "timm", "ours / fastest peer", "ours / timm")
    print("\n" + header("build, ms", *columns, original.NAME, f"ours / {original.NAME}"))
    with original.Original() if original.there() else nullcontext() as beside:
        for name in MODELS:
            runs = {library: clocked(call) for library, call in builders(name).items()}
            if beside and original.there(name):
                runs[original.NAME] = beside.build(name)
            found = medians(runs, rounds)
            ours, *theirs = (found[library] for library in ("ours", "torchvision", "timm"))
            cells = [f"{ours:.0f}", *(f"{ms:.0f}" for ms in theirs)]
            cells += [f"{ours / min(theirs):.2f}", f"{ours / theirs[1]:.2f}"]
            last = found.get(original.NAME)
            cells += [f"{last:.0f}", f"{ours / last:.2f}"] if last else ["", ""]
            print(row([name, *cells]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(about(options.threads, f"{options.rounds} rounds", *original.note()))
    imports(options.rounds)
    construction(options.rounds)


if __name__ == "__main__":
    main()
