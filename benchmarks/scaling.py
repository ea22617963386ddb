"""How the time per image changes with the batch, the resolution and the depth: ours and the peers', in one run.

    python -m benchmarks.scaling [--only batch resolution depth] [--rounds 5] [--threads 1]

Ours is optimized; peers run as they are and with channels last, not compiled, and the fastest of timm's
and torchvision's is shown. All have the same weights and take turns. A ratio is theirs to ours. Vision
transformers are built for their resolution. A ratio is theirs to ours, of the same round: its median, and
its quartiles. Where a round takes more than a second, there are fewer, but
at least two.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.models import DTYPES, LEFT_OUT, channels_last, images, models
from benchmarks.tables import about, geometric_mean, header, row
from benchmarks.timing import Run, clocked, ratio, take_turns

BATCHES = (1, 2, 4, 8, 16, 32)
SIZES = (128, 224, 320, 448)
DEPTHS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("densenet121", "densenet169", "densenet201"),
    *("efficientnet_b0", "efficientnet_b2", "efficientnet_b4"),
    *("vit_b_32", "vit_l_32"),
)
SECONDS = 5.0
"""What the rounds of a case may take, beyond two."""

Case = tuple[str, int, int]
"""Model, batch, pixels."""

TABLES: dict[str, tuple[str, list[Case]]] = {
    "batch": ("224 px", [(name, batch, 224) for name in ("resnet50", "efficientnet_b0") for batch in BATCHES]),
    "resolution": (
        "batch 1",
        [(name, 1, size) for name in ("resnet50", "efficientnet_b0", "vit_b_32") for size in SIZES],
    ),
    "depth": ("batch 1, 224 px", [(name, 1, 224) for name in DEPTHS]),
}


def contenders(name: str, batch: int, size: int) -> Iterator[tuple[tuple[str, str, str], Run]]:
    """((library, type, layout), a timed forward pass)."""
    from classy_vision.engines import optimize

    x = images(name, batch, size)
    for library, model in models(name, size):
        for short, dtype in DTYPES.items():
            if library == "ours":
                yield (library, short, ""), clocked(partial(optimize(model, x, dtype=dtype), x))
                continue
            for layout in (torch.contiguous_format, channels_last(x)):
                inputs = x.to(dtype=dtype, memory_format=layout)
                twin = copy.deepcopy(model).to(dtype=dtype, memory_format=layout)
                yield (library, short, str(layout)), clocked(partial(twin, inputs))


def measure(case: Case, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Milliseconds per image of each library in each type, in the quicker layout; round by round."""
    with torch.inference_mode():
        runs = dict(contenders(*case))
        once = sum(values[0] for values in take_turns(runs, 1, warmup=0).values())
        times = take_turns(runs, max(2, min(rounds, int(1e3 * SECONDS / once))), warmup=0)
    found: dict[tuple[str, str], list[float]] = {}
    for (library, short, _), values in times.items():
        rounds_ = [ms / case[1] for ms in values]
        found[library, short] = min(rounds_, found.get((library, short), rounds_), key=statistics.median)
    return found


def cells(found: dict[tuple[str, str], list[float]]) -> tuple[list[str], list[float]]:
    """Ours, the fastest peer and the ratio, for each type; and the ratios."""
    words, ratios = [], []
    for short in DTYPES:
        of_type = {library: ms for (library, of), ms in found.items() if of == short}
        ours = of_type.pop("ours")
        quick = min(of_type, key=lambda library: statistics.median(of_type[library]))
        beside = ratio(of_type[quick], ours)
        ratios.append(beside.median)
        medians = [statistics.median(values) for values in (ours, of_type[quick])]
        words += [f"{medians[0]:.2f}", f"{medians[1]:.2f} ({quick})", f"{beside:.2f}"]
    return words, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    print(about(options.threads, "milliseconds per image, medians", *LEFT_OUT))
    columns = [column for short in DTYPES for column in (f"ours, {short}", f"fastest peer, {short}", "ratio")]
    for what in options.only:
        fixed, cases = TABLES[what]
        values = [] if what == "depth" else [what]
        print(f"By {what}; {fixed}\n\n{header('', *values, *columns)}")
        every = []
        for case in cases:
            words, ratios = cells(measure(case, options.rounds))
            every.append(ratios)
            of_case = {"batch": case[1], "resolution": case[2]}
            print(row([case[0], *(of_case[value] for value in values), *words]), flush=True)
        means = [cell for mean in map(geometric_mean, zip(*every)) for cell in ("", "", f"**{mean:.2f}**")]
        print(row(["geometric mean", *("" for _ in values), *means]) + "\n", flush=True)


if __name__ == "__main__":
    main()
