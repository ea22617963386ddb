"""From the start of a process to the first output: ours and timm's, from one file of weights.

    python -m benchmarks.cold_start [--rounds 5] [--threads 1] [--saved MODEL ...]

The weights are random, in timm's layout, in a ``.safetensors`` file that has been read before (it
is in the page cache). Each start is a fresh process that imports its library, builds the model,
loads the file and runs one image of 224 px; contenders take turns, and medians are shown. timm's
peer creates the network with its default arguments and ``checkpoint_path``, or, where that is
faster, without initialising it on the meta device and assigning the tensors of the file.

A second table is of optimized models that were saved: the first answer of a process that runs ours by
``load_optimized``, and of one that runs the same engine's own file by hand. Building is ``optimize``.

- seconds: from before the process starts until its output is there, as its parent sees it.
- peak: the high-water mark of resident memory; anonymous: that of its part which no file holds.
  Mapped pages of the file are in the first only, and the system can take them back at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.timing import own_process, take_turns

MIB = 2**20
MODELS = {"vit_l_16": "vit_large_patch16_224", "regnet_y_32gf": "regnety_320"}
"""Our name: timm's."""

# -- what a start is; imports are part of it


def ours(name: str, path: str) -> Any:
    from classy_vision.models import build_model

    return build_model(name, num_classes=1000, weights=path)


def timm_created(name: str, path: str) -> Any:
    from benchmarks.peers import timm

    return timm.create_model(MODELS[name], checkpoint_path=path)


def timm_assigned(name: str, path: str) -> Any:
    """What timm does not offer in one call: no weights drawn, and those of the file not copied."""
    import torch
    from safetensors.torch import load_file

    from benchmarks.peers import timm

    with torch.device("meta"):
        model = timm.create_model(MODELS[name])
    model.load_state_dict(load_file(path), assign=True)
    return model


CONTENDERS: dict[str, Callable[[str, str], Any]] = {
    "ours": ours,
    "timm, checkpoint_path": timm_created,
    "timm, meta and assign": timm_assigned,
}


@dataclass(frozen=True)
class Start:
    """One start: seconds in all, of which until the model is there; bytes."""

    seconds: float
    loaded: float
    peak: int
    anonymous: int


def start_here(contender: str, name: str, path: str, threads: int) -> None:
    """Builds, loads and runs, and prints what it took; the process must be a fresh one."""
    begun = time.perf_counter()
    import torch

    torch.set_num_threads(threads)
    model = CONTENDERS[contender](name, path).eval()
    loaded = time.perf_counter() - begun
    with torch.inference_mode():
        output = model(torch.ones(1, 3, 224, 224))
    found = {"loaded": loaded, "output": output[0, :3].tolist()}
    print(json.dumps({**found, "peak": _status("VmHWM"), "anonymous": _status("RssAnon")}), flush=True)
    os._exit(0)


def _status(field: str) -> int:
    with open("/proc/self/status") as file:
        return 1024 * next(int(line.split()[1]) for line in file if line.startswith(field))


# -- comparing


def start(contender: str, name: str, path: Path, threads: int) -> tuple[Start, list[float]]:
    """One start in a process of its own, and the first of its outputs."""
    begun = time.perf_counter()
    found = own_process("cold_start", "--threads", threads, "--start", contender, name, path)
    seconds = time.perf_counter() - begun
    output = found.pop("output")
    return Start(seconds=seconds, **found), output


def compare(name: str, path: Path, rounds: int, threads: int) -> None:
    """A table: medians of all contenders, taking turns, and ours over each."""
    from benchmarks.tables import header, row

    calls = {contender: partial(start, contender, name, path, threads) for contender in CONTENDERS}
    starts = take_turns(calls, rounds)  # the first round brings code and weights into the page cache
    outputs = [output for found in starts.values() for _, output in found]
    spread = max(abs(a - b) for output in outputs for a, b in zip(output, outputs[0]))
    largest = max(abs(value) for value in outputs[0])
    assert spread <= 1e-3 * largest, f"outputs differ by {spread}"
    medians = {
        contender: [statistics.median(values) for values in zip(*(astuple(measured) for measured, _ in found))]
        for contender, found in starts.items()
    }
    print(f"\n{name}, {path.stat().st_size / MIB:.0f} MiB of weights, {rounds} rounds\n")
    columns = ("seconds", "until loaded", "peak MiB", "anonymous MiB", "ours: seconds", "ours: peak")
    print(header("", *columns))
    for contender, (seconds, loaded, peak, anonymous) in medians.items():
        wall, memory = medians["ours"][0] / seconds, medians["ours"][2] / peak
        cells = [f"{value:.2f}" for value in (seconds, loaded)]
        cells += [f"{value / MIB:.0f}" for value in (peak, anonymous)] + [f"{wall:.2f}", f"{memory:.2f}"]
        print(row([contender, *cells]), flush=True)


# -- saved


def answer_here(kind: str, path: str, shape: str, threads: int) -> None:
    """Loads a file and runs it once, and prints the seconds of the import and of the rest."""
    begun = time.perf_counter()
    import numpy as np

    x = np.ones(tuple(map(int, shape.split(","))), np.float32)
    if kind == "ours":
        import onnxruntime as onnxruntime
        import openvino as openvino

        from classy_vision.engines import load_optimized

        imported = time.perf_counter()
        load_optimized(path, threads=threads, trust=True)(x)
    else:
        from benchmarks.by_hand import run_onnx, run_openvino

        __import__(kind)
        imported = time.perf_counter()
        (run_onnx if kind == "onnxruntime" else run_openvino)(path, x, threads)()
    print(json.dumps([imported - begun, time.perf_counter() - imported]), flush=True)
    os._exit(0)


def compare_saved(name: str, folder: Path, rounds: int, threads: int) -> str:
    """A row: seconds of building, and until the first answer of ours and of both engines by hand."""
    import openvino as ov
    import torch

    from benchmarks.by_hand import onnx_of, openvino_of
    from benchmarks.models import images, models
    from benchmarks.tables import row
    from classy_vision.engines import optimize

    torch.set_num_threads(threads)
    model, x = next(iter(models(name)))[1], images(name, 1)
    begun = time.perf_counter()
    fast = optimize(model, x)
    building = time.perf_counter() - begun
    files = {"ours": folder / "ours", "onnxruntime": folder / "m.onnx", "openvino": folder / "m.xml"}
    fast.save(files["ours"], force=True)
    files["onnxruntime"].write_bytes(onnx_of(model, x))
    ov.save_model(openvino_of(model, x), files["openvino"], compress_to_fp16=False)
    shape = ",".join(map(str, x.shape))
    calls = {
        kind: partial(own_process, "cold_start", "--threads", threads, "--answer", kind, path, shape)
        for kind, path in files.items()
    }
    found = {kind: map(statistics.median, zip(*times)) for kind, times in take_turns(calls, rounds).items()}
    return row([name, fast.engine, f"{building:.1f}", *(f"{s:.2f}" for pair in found.values() for s in pair)])


def write(name: str, path: Path) -> None:
    from classy_vision.models import build_model, save_weights

    save_weights(build_model(name, num_classes=1000), path, layout="timm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--start", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--answer", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--saved", nargs="*", metavar="MODEL", help="the second table alone")
    options = parser.parse_args()
    if options.start:
        start_here(*options.start, threads=options.threads)
    if options.answer:
        answer_here(*options.answer, threads=options.threads)
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS if options.saved is None else ():
            path = Path(folder) / f"{name}.safetensors"
            write(name, path)
            compare(name, path, options.rounds, options.threads)
            path.unlink()
        _print_saved(options.saved, Path(folder), options.rounds, options.threads)


def _print_saved(names: list[str] | None, folder: Path, rounds: int, threads: int) -> None:
    from benchmarks.models import MODELS
    from benchmarks.tables import header

    parts = [f"{who}, {what}" for who in ("ours", "ONNX Runtime", "OpenVINO") for what in ("import", "answer")]
    print(f"\nSaved, seconds, {rounds} rounds\n\n" + header("", "engine", "building", *parts, words=2))
    for name in names or MODELS:
        print(compare_saved(name, folder, rounds, threads), flush=True)


if __name__ == "__main__":
    main()
