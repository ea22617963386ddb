"""How fast a model answers: ours, timm's, torchvision's and pytorchvideo's, in one run.

    python -m benchmarks.inference [MODEL ...] [--batches 1 16] [--rounds 5] [--threads 1] [--no-compile]

All have the same weights and see the same images; outputs are compared first (1e-4 of the largest
value in 32 bits, 2e-2 in 16). They take turns, so that a machine that slows down slows all of them.
Peers run as they are, with channels last, in bfloat16, and compiled with frozen weights; ours as it
is and optimized, which compiles nothing. Each model and batch has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Run = Callable[[], Any]

# ours: (options, torchvision's, timm's, pytorchvideo's)
MODELS: dict[str, tuple[dict[str, Any], str | None, str | None, str | None]] = {
    "resnet50": ({}, "resnet50", "resnet50", None),
    "resnext50_32x4d": ({}, "resnext50_32x4d", "resnext50_32x4d", None),
    "regnet_y_1.6gf": ({}, "regnet_y_1_6gf", "regnety_016", None),
    "densenet121": ({}, "densenet121", "densenet121", None),
    "efficientnet_b0": ({"bn_epsilon": 1e-5}, "efficientnet_b0", "efficientnet_b0", None),
    "vit_b_16": ({}, "vit_b_16", "vit_base_patch16_224", None),
    "slow_r50": ({}, None, None, "slow_r50"),
}
LOGITS = {
    "name": "fully_convolutional_linear",
    "unique_id": "action",
    "num_classes": 400,
    "fork_block": "trunk_output",
    "activation_func": "identity",
}
CLIP = (3, 8, 224, 224)
BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def models(name: str) -> Iterator[tuple[str, nn.Module]]:
    """(library, model), all with the same weights."""
    from benchmarks.peers import timm, torchvision
    from classy_vision.models import build_model
    from classy_vision.models.pretrained import to_layout

    options, of_torchvision, of_timm, of_pytorchvideo = MODELS[name]
    heads = {"heads": [LOGITS]} if of_pytorchvideo else {"num_classes": 1000}
    ours = build_model(name, **heads, **options).eval()
    _wear(ours)
    yield "ours", ours
    if of_torchvision:
        theirs = torchvision.models.get_model(of_torchvision)
        theirs.load_state_dict(to_layout(ours, "torchvision"))
        yield "torchvision", theirs.eval()
    if of_timm:
        theirs = timm.create_model(of_timm)
        theirs.load_state_dict(to_layout(ours, "timm"))
        yield "timm", theirs.eval()
    if of_pytorchvideo:
        import pytorchvideo.models.hub

        theirs = getattr(pytorchvideo.models.hub, of_pytorchvideo)(pretrained=False, model_num_class=400)
        theirs.blocks[-1].pool, theirs.blocks[-1].activation = nn.AdaptiveAvgPool3d(1), None
        theirs.load_state_dict(to_layout(ours, "pytorchvideo"))
        yield "pytorchvideo", theirs.eval()


def _wear(model: nn.Module) -> None:
    """Weights of all sizes, such that a network does not magnify rounding, as trained ones do not."""
    torch.manual_seed(0)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.7, 1.3)
        elif key.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif key.endswith("norm.weight"):
            value.normal_(1, 0.3)
        elif key.endswith("norm.bias"):
            value.normal_(0, 0.3)
        elif key.startswith("heads.") and value.dim() == 2:
            value.normal_(0, 0.02)


def contenders(name: str, batch: int, compiled: bool) -> Iterator[tuple[str, torch.dtype, Run]]:
    """(what, type, one forward pass)."""
    from classy_vision.deploy import optimize

    shape = CLIP if name == "slow_r50" else (3, 224, 224)
    x = torch.randn(batch, *shape)
    layout = torch.channels_last_3d if x.dim() == 5 else torch.channels_last
    for library, model in models(name):
        yield f"{library}, as it is", torch.float32, _run(model, x)
        if library == "ours":
            for dtype in BOUNDS:
                yield f"ours, optimized {_short(dtype)}", dtype, _run(optimize(model, x, dtype=dtype), x)
            continue
        for dtype in BOUNDS:
            import copy

            twin = copy.deepcopy(model).to(dtype=dtype, memory_format=layout)
            images = x.to(dtype=dtype, memory_format=layout)
            yield f"{library}, channels last {_short(dtype)}", dtype, _run(twin, images)
            if compiled:
                frozen = torch.compile(twin, options={"freezing": True})
                yield f"{library}, compiled and frozen {_short(dtype)}", dtype, _run(frozen, images)


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]


def _run(model: Any, x: Tensor) -> Run:
    return lambda: model(x)


def measure(name: str, batch: int, rounds: int, compiled: bool) -> dict[str, list[float]]:
    """Milliseconds per sample of each contender, round by round."""
    runs: dict[str, Run] = {}
    times: dict[str, list[float]] = {}
    wanted: Tensor | None = None
    with torch.inference_mode():
        for what, dtype, run in contenders(name, batch, compiled):
            output = run().float()  # compiles
            wanted = output if wanted is None else wanted
            difference = ((output - wanted).abs().max() / wanted.abs().max()).item()
            if not difference <= BOUNDS[dtype]:
                print(f"{name}: {what} is {difference:.2g} off", file=sys.stderr)
            runs[what], times[what] = run, []
        for turn in range(rounds + 1):
            for what, run in runs.items():
                start = time.perf_counter()
                run()
                if turn:
                    times[what].append(1e3 * (time.perf_counter() - start) / batch)
    return times


# -- the table


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Medians and quartiles by model; the fastest of peers and of ours in each type."""
    lines = []
    summary = [
        "| | fastest peer, fp32 | ours, fp32 | ratio | fastest peer, bf16 | ours, bf16 | ratio "
        "| timm or its like, plain | our best | ratio |",
        "|---|" + "---:|" * 9,
    ]
    ratios: dict[str, list[float]] = {"fp32": [], "bf16": [], "plain": []}
    for case, times in results.items():
        medians = {what: statistics.median(values) for what, values in times.items()}
        lines += [f"\n**{case}**\n", "| | ms per sample | quartiles |", "|---|---:|---:|"]
        for what, median in medians.items():
            low, _, high = statistics.quantiles(times[what], n=4)
            lines.append(f"| {what} | {median:.2f} | {low:.2f} to {high:.2f} |")
        summary.append(f"| {case} | " + " | ".join(_cells(medians, ratios)) + " |")
    mean = {key: math.exp(statistics.fmean(map(math.log, values))) for key, values in ratios.items() if values}
    summary.append(
        "| geometric mean | | | "
        + " | | | ".join(f"**{mean[key]:.2f}**" if key in mean else "" for key in ("fp32", "bf16", "plain"))
        + " |"
    )
    return "\n".join([*summary, *lines])


def _cells(medians: dict[str, float], ratios: dict[str, list[float]]) -> list[str]:
    cells = []
    for short in ("fp32", "bf16"):
        theirs = {w: m for w, m in medians.items() if not w.startswith("ours") and _type(w) == short}
        ours = min(m for w, m in medians.items() if w.startswith("ours") and _type(w) == short)
        best = min(theirs, key=theirs.__getitem__)
        ratios[short].append(theirs[best] / ours)
        cells += [f"{theirs[best]:.2f} ({best.removesuffix(' ' + short)})", f"{ours:.2f}"]
        cells += [f"{theirs[best] / ours:.2f}"]
    plain = next(m for w, m in reversed(medians.items()) if w.endswith("as it is"))
    ours = min(m for w, m in medians.items() if w.startswith("ours"))
    ratios["plain"].append(plain / ours)
    return [*cells, f"{plain:.2f}", f"{ours:.2f}", f"{plain / ours:.2f}"]


def _type(what: str) -> str:
    return "bf16" if what.endswith("bf16") else "fp32"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--one", action="store_true", help="measure one case and print it as JSON")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch._dynamo.config.recompile_limit = 64  # pytorchvideo's blocks are many of one class
    if options.one:
        [name], [batch] = options.models, options.batches
        print(json.dumps(measure(name, batch, options.rounds, not options.no_compile)))
        return
    results = {}
    for name in options.models:
        for batch in options.batches:
            batch = min(batch, 4) if name == "slow_r50" else batch
            rounds = options.rounds * (3 if batch == 1 else 1)
            command = [sys.executable, "-m", "benchmarks.inference", name, "--one", "--batches", str(batch)]
            command += ["--rounds", str(rounds), "--threads", str(options.threads)]
            command += ["--no-compile"] if options.no_compile else []
            print(f"{name}, batch {batch} ...", file=sys.stderr)
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results[f"{name}, batch {batch}"] = json.loads(done.stdout.splitlines()[-1])
    print(f"torch {torch.__version__}; {options.threads} thread(s); milliseconds per sample, medians\n")
    print(table(results))


if __name__ == "__main__":
    main()
