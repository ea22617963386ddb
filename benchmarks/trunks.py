"""Milliseconds of the trunks in the documentation's "Which trunk should I take?", on torch and on OpenVINO.

    python -m benchmarks.trunks [NAME ...] [--threads 1]

One image, or one clip, of the size of each name's preprocessing, in float32, with random weights. Each name has
a process of its own, in which the two take turns; medians are written to ``docs/_ext/milliseconds.json``, name
by name.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings

import torch

from benchmarks.timing import clocked, medians, own_process
from docs._ext.trunks import MILLISECONDS, NEEDS

ENGINES = ("plain", "openvino")
SECONDS = 4.0
"""What the rounds of one engine may take."""


def measure(name: str, threads: int) -> dict[str, float]:
    """Milliseconds of each engine."""
    from classy_vision.engines import optimize
    from classy_vision.models import build_model
    from classy_vision.weights.catalogue import published
    from classy_vision.weights.licenses import LicenseWarning

    torch.set_num_threads(threads)
    size = published(name).preprocessing.image_size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LicenseWarning)
        model = build_model(name).eval()
    x = torch.rand(1, *model.input_shape[:-2], size, size)
    fast = {engine: optimize(model, x, engine=engine, threads=threads) for engine in ENGINES}
    start = time.perf_counter()
    with torch.inference_mode():
        fast["openvino"](x)
        took = time.perf_counter() - start
        rounds = max(1, min(50, round(SECONDS / took)))
        runs = {engine: clocked(lambda engine=engine: fast[engine](x)) for engine in ENGINES}
        return medians(runs, rounds, warmup=int(took < SECONDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", action="store_true", help="measure one name and print it as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.names[0], options.threads)))
        return
    found = json.loads(MILLISECONDS.read_text(encoding="utf-8")) if MILLISECONDS.exists() else {}
    for name in options.names or sorted({name for chosen in NEEDS.values() for name in chosen}):
        found[name] = own_process("trunks", "--one", name, "--threads", str(options.threads))
        print(f"{name:60}", "  ".join(f"{engine} {ms:.2f}" for engine, ms in found[name].items()), flush=True)
        lines = (f"  {json.dumps(key)}: {json.dumps(_round(found[key]))}" for key in sorted(found))
        MILLISECONDS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _round(times: dict[str, float]) -> dict[str, float]:
    return {engine: float(f"{ms:.3g}") for engine, ms in times.items()}


if __name__ == "__main__":
    main()
