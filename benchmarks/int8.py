"""What int8 costs and gains: accuracy, milliseconds, and where they go.

    python -m benchmarks.int8 [digits videos resnet50 slow_r50] [--seconds 8] [--runs FOLDER]

Trains the digits run and a small run of videos, which it makes itself: patterns of four kinds that move. Of
the networks without a run the time alone is measured, in files of engines. Each is exported in all formats, in
float32 and int8, and timed beside our own model, optimized, in every type that the processor has; they take
turns. A ratio is of the quickest of all that is not int8 to the quickest of those that are. The last table says
where an int8 file spends its time, as ONNX Runtime's profiler and oneDNN tell it; what is quantized in an
AOTInductor package is part of the rest there, since it is compiled into one loop with sums,
pooling and activations.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import operators as operators  # before anything imports torchvision
from benchmarks.models import DTYPES, LEFT_OUT
from benchmarks.tables import about, header, row
from benchmarks.timing import clocked, medians
from classy_vision.config import read_config

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "aoti": ".pt2"}
NETWORK_FORMATS = ("onnx", "openvino")
PROFILED = ("onnx", "aoti")
"""Those that tell where they spend their time."""
KINDS = {
    "products in integers": ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"),
    "products in float32": ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"),
    "quantize, dequantize": ("QuantizeLinear", "DequantizeLinear"),
}
"""Of ONNX Runtime's operators."""
REST = "the rest"
FRAMES, FRAME = 8, 48
RUNS, NETWORKS = ("digits", "videos"), ("resnet50", "slow_r50")


def vnni() -> str:
    """Whether products of integers are summed up in one instruction."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    found = sorted(flags & {"avx512_vnni", "avx_vnni", "amx_int8"})
    return f"int8 by {', '.join(found)}" if found else "no VNNI: int8 has less to gain here"


# -- the runs


def moving(pattern: Any, rng: np.random.Generator) -> Iterable[Any]:
    """Frames (h, w, 3) of a pattern on a torus, under noise."""
    step, place = rng.integers(-3, 4, 2), rng.integers(0, FRAME, 2)
    bright, dark = rng.integers(150, 256), rng.integers(0, 100)
    for i in range(FRAMES):
        shown = np.where(np.roll(pattern, tuple(place + i * step), (0, 1)), bright, dark)
        yield np.clip(shown[..., None] + rng.normal(0, 25, (FRAME, FRAME, 3)), 0, 255).astype(np.uint8)


def make_videos(root: Path, train: int = 14, val: int = 25) -> Path:
    """``root/train/<kind>/*.mp4`` and ``root/val/...``, so many of each kind."""
    if root.exists():
        return root
    root, done = root.with_name(f"{root.name}.part"), root
    shutil.rmtree(root, ignore_errors=True)
    import av

    down, right = np.indices((FRAME, FRAME)) // 6 % 2 > 0
    large = np.indices((FRAME, FRAME)).max(0) < 20
    patterns = {"bars": down, "columns": right, "checks": down ^ right, "square": large}
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind, pattern in patterns.items():
            folder = root / split / kind
            folder.mkdir(parents=True)
            for i in range(count):
                with av.open(str(folder / f"{i}.mp4"), "w") as container:
                    stream: Any = container.add_stream("mpeg4", rate=8)
                    stream.pix_fmt, stream.height, stream.width = "yuv420p", FRAME, FRAME
                    for pixels in moving(pattern, rng):
                        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                    container.mux(stream.encode(None))
    return root.rename(done)


def configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Training jobs: the digits', and one of a 3-D ResNet-18 with half of its blocks."""
    head = {"name": "fully_connected", "unique_id": "kind", "fork_block": "trunk_output"}
    clips: dict[str, Any] = {
        "model": {"name": "r3d_18", "num_blocks": [1, 1, 1, 1], "heads": [head]},
        "data": {
            "source": "folder",
            "root": str(make_videos(folder / "patterns")),
            "image_size": FRAME,
            "augment": "none",
            "clip": {"frames": FRAMES, "clips": 1},
        },
        "schedule": {"epochs": 3, "batch_size": 4, "learning_rate": 3e-4, "warmup_epochs": 1, "workers": 0},
    }
    return {"digits": read_config("configs/digits.yaml"), "videos": clips}


def trained(name: str, config: Mapping[str, Any], folder: Path) -> Path:
    """A run folder, trained now if it is not there."""
    from classy_vision.train import TrainConfig, train
    from classy_vision.train.run_folder import RunFolder

    run = folder / name
    if not RunFolder(run).finished:
        print(f"{name}: training ...", file=sys.stderr)
        with redirect_stdout(sys.stderr):
            train(TrainConfig.parse(config), run)
    return run


def exported(run: Path) -> tuple[Any, dict[str, Path], list[list[object]]]:
    """The model, its files by type and format, and scores before and after by format and head."""
    from classy_vision.export import export
    from classy_vision.predict import Predictor
    from classy_vision.predict.exported import calibrate
    from classy_vision.train.job import prepare
    from classy_vision.train.run_folder import RunFolder

    model = Predictor.load(run).model.cpu().eval()
    settings = RunFolder(run).settings()
    example = torch.empty(1, *settings.data.input_shape(model.input_shape[0], training=False))
    int8, files, scores = calibrate(prepare(settings), max_loss=100), {}, []
    for format, suffix in FORMATS.items():
        print(f"{run.name}: {format} ...", file=sys.stderr)
        options: dict[str, Any] = {"format": format, "example": example, "force": True}
        plain, small = (run / f"{kind}{suffix}" for kind in ("fp32", "int8"))
        export(model, plain, **options)
        done = export(model, small, **options, int8=int8)
        files |= {f"fp32 {format}": plain, f"int8 {format}": small}
        for head, before in done.before.items():
            after = done.after[head]
            cells = f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"
            scores.append([run.name, format, head, *cells])
    return model, files, scores


def exported_network(name: str, folder: Path) -> tuple[Any, dict[str, Path]]:
    """A network with weights of all sizes and its files; quantized by random images, and not measured."""
    from benchmarks.models import images, models
    from classy_vision.export import Int8, export

    model, files = next(iter(models(name)))[1], {}
    [head] = [head.unique_id for heads in model.get_heads().values() for head in heads]
    int8 = Int8([images(name, 1) for _ in range(8)], lambda run: {head: 100.0}, max_loss=100)
    for format in NETWORK_FORMATS:
        print(f"{name}: {format} ...", file=sys.stderr)
        for kind, how in (("fp32", None), ("int8", int8)):
            path = files[f"{kind} {format}"] = folder / f"{name}-{kind}{FORMATS[format]}"
            export(
                model, path, format=format, example=images(name, 1), int8=how, tolerance=None if how else 1e-3
            )
    return model, files


# -- time


def runner(path: Path, profile: str | None = None) -> tuple[Callable[[Tensor], Any], Any]:
    """How to run a file on one thread, and the session of ONNX Runtime if it has one."""
    if path.suffix != ".onnx":
        from classy_vision.export import load_exported

        return load_exported(path, trust=True), None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    return lambda x: session.run(None, {"images": x.numpy()}), session


def times(model: Any, files: Mapping[str, Path], x: Tensor, seconds: float) -> dict[str, float]:
    """Milliseconds per sample by contender."""
    from classy_vision.engines import optimize

    calls: dict[str, Callable[[Tensor], Any]] = {
        f"ours {short}": optimize(model, x, dtype=dtype) for short, dtype in DTYPES.items()
    }
    calls |= {name: runner(path)[0] for name, path in files.items()}
    runs = {name: clocked(lambda call=call: call(x)) for name, call in calls.items()}
    with torch.inference_mode():
        medians(runs, rounds=1)  # whatever is made at the first call
        once = sum(run() for run in runs.values()) / 1e3
        found = medians(runs, rounds=max(3, min(500, int(seconds / once))))
    return {name: value / len(x) for name, value in found.items()}


def shares(path: Path, x: Tensor, calls: int, milliseconds: float) -> dict[str, float]:
    """Percent of the time by kind of operator; ``milliseconds`` is what they take, untraced."""
    spent = _onnx(path, x, calls) if path.suffix == ".onnx" else _aoti(path, x, calls, milliseconds)
    return {kind: 100 * value / sum(spent.values()) for kind, value in spent.items()}


def _onnx(path: Path, x: Tensor, calls: int) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        call, session = runner(path, profile=f"{folder}/profile")
        for _ in range(calls):
            call(x)
        events = json.loads(Path(session.end_profiling()).read_text())
    spent = dict.fromkeys([*KINDS, REST], 0.0)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["args"]["op_name"]
            spent[next((kind for kind, names in KINDS.items() if name in names), REST)] += event["dur"]
    return spent


def _aoti(path: Path, x: Tensor, calls: int, milliseconds: float) -> dict[str, float]:
    """By what oneDNN says, in a process that is told so."""
    shape = ",".join(map(str, x.shape))
    command = [sys.executable, "-m", "benchmarks.int8", "--traced", str(path), shape, str(calls)]
    done = subprocess.run(
        command, env={**os.environ, "ONEDNN_VERBOSE": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )
    spent = dict.fromkeys(KINDS, 0.0)
    for line in done.stdout.split("START\n")[1].splitlines():
        cells = line.split(",")
        if "exec" in cells and {"convolution", "matmul", "inner_product"} & set(cells):
            kind = "products in integers" if "src:u8" in line else "products in float32"
            spent[kind] += float(cells[-1])
    return {**spent, REST: max(0.0, milliseconds - sum(spent.values()))}


def traced(path: Path, shape: str, calls: int) -> None:
    """Runs a package, and says where the first call ends."""
    call, x = runner(path)[0], torch.randn(*map(int, shape.split(",")))
    call(x)
    print("START", flush=True)
    for _ in range(calls):
        call(x)


# -- the tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "cases", nargs="*", default=(*RUNS, *NETWORKS), metavar="CASE", help="; ".join(RUNS + NETWORKS)
    )
    parser.add_argument("--seconds", type=float, default=8.0, help="of each row")
    parser.add_argument("--runs", type=Path, help="keep the runs there, and take those that are there")
    parser.add_argument("--traced", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.traced:
        path, shape, calls = options.traced
        traced(Path(path), shape, int(calls))
        return
    with TemporaryDirectory() as folder:
        print_tables(options.cases, options.runs or Path(folder), options.seconds)


def print_tables(names: Sequence[str], folder: Path, seconds: float) -> None:
    """Scores, times and shares of runs, and times of networks."""
    scores, speeds, profile = [], [], []
    columns = [f"ours {short}" for short in DTYPES]
    columns += [f"{kind} {format}" for kind in ("fp32", "int8") for format in FORMATS]

    def time_files(name: str, model: Any, files: Mapping[str, Path], x: Tensor) -> dict[str, float]:
        took = times(model, files, x, seconds)
        int8 = min(ms for name, ms in took.items() if name.startswith("int8"))
        other = min(ms for name, ms in took.items() if not name.startswith("int8"))
        cells = (f"{took[key]:.3f}" if key in took else "" for key in columns)
        speeds.append([f"{name}, batch {len(x)}", *cells, f"{other / int8:.2f}"])
        return took

    for name in (name for name in names if name in RUNS):
        config = configs(folder)[name]
        model, files, found = exported(trained(name, config, folder))
        scores += found
        for batch in (1, 16):
            x = torch.randn(batch, *model_input(model, config))
            took = time_files(name, model, files, x)
            for format in PROFILED:
                path, once = files[f"int8 {format}"], batch * took[f"int8 {format}"]
                calls = max(3, min(100, int(seconds * 1e3 / (8 * once))))
                share = shares(path, x, calls, calls * once)
                profile.append(
                    [f"{name}, batch {batch}, {format}", *(f"{value:.0f} %" for value in share.values())]
                )
    for name in (name for name in names if name in NETWORKS):
        from benchmarks.models import images

        model, files = exported_network(name, folder)
        time_files(name, model, files, images(name, 1))
    print(about(1, vnni(), *LEFT_OUT, "scores in points, milliseconds per sample, medians"))
    print(header("run", "file", "head", "float32", "int8", "difference", words=3), *map(row, scores), sep="\n")
    print("\n" + header("", *columns, "ratio"), *map(row, speeds), sep="\n")
    print("\n" + header("", *KINDS, REST), *map(row, profile), sep="\n")


def model_input(model: Any, config: Mapping[str, Any]) -> tuple[int, ...]:
    """(c, h, w) or (c, t, h, w)."""
    side = config["data"]["image_size"]
    frames = [config["data"]["clip"]["frames"]] if "clip" in config["data"] else []
    return (model.input_shape[0], *frames, side, side)


if __name__ == "__main__":
    main()
