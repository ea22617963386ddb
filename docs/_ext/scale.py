"""What embedding costs at any scale, computed from its steps: ``scale.json`` has them, as they were measured.

``python -m benchmarks.scale`` measures them anew. GPUs were not measured: their rates are half of what timm has
published in half precision, because ``classy embed`` computes in float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .markdown import table

FILE = Path(__file__).with_name("scale.json")
COLLECTIONS = {"1 million": 10**6, "ImageNet-1k": 1_281_167, "1 billion": 10**9}
IMAGE = "500 × 375"
"""Of which size the images of the collections are; ImageNet's are so on average."""
NAMES = {"regnet_y_400mf": "RegNetY-400MF", "vit_s_16": "ViT-S/16", "vit_l_16": "ViT-L/16"}
PUBLISHED = {"regnet_y_400mf": 13729.83, "vit_s_16": 8214.74, "vit_l_16": 954.12}
"""Images per second at 224 pixels on an RTX 4090 in half precision, from timm's results:
benchmark-infer-amp-nchw-pt291-cu128-4090.csv."""
HALF = 0.5
"""The peak of the card in float32 over that in half precision; the bytes that move double as well."""
CORES = 16
"""Of the machine, for each GPU."""
SHARD = 4096


@cache
def read() -> dict[str, Any]:
    """The steps as they were measured."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Machines:
    """What embeds.

    Attributes:
        name: what they are called.
        gpus: how many.
        cores: of the processors, of all of them together.
    """

    name: str
    gpus: int
    cores: int


CLUSTERS = (
    *(Machines(f"{n} GPU{'s' * (n > 1)}", n, CORES * n) for n in (1, 8, 64)),
    *(Machines(f"{n:,} cores", 0, n) for n in (16, 256, 4096)),
)


@dataclass(frozen=True)
class Rates:
    """Images per second that each step of a model and machines can do.

    Attributes:
        model, decode: alone.
        all: both, overlapping on GPUs, one after the other on the cores that they share.
    """

    model: float
    decode: float
    all: float

    @property
    def limit(self) -> str:
        return "decoding" if self.decode < self.model else "the model"


def estimate(model: str, machines: Machines, image: str = IMAGE, how: str = "reduced") -> Rates:
    """Computes rates from the steps."""
    steps = read()
    decode = machines.cores / (steps["decode"][image][f"{how} ms"] + steps["row us"] / 1e3) * 1e3
    if machines.gpus:
        rate = PUBLISHED[model] * HALF * machines.gpus
        return Rates(rate, decode, min(rate, decode))
    rate = machines.cores / fastest(steps["models"][model]) * 1e3
    return Rates(rate, decode, 1 / (1 / rate + 1 / decode))


def fastest(model: Mapping[str, float]) -> float:
    """Milliseconds of one core for an image, on the faster engine."""
    return min(model["plain ms"], model["openvino ms"])


# -- tables


def decoding() -> str:
    """What an image of each size costs a core."""
    rows = []
    for size, step in read()["decode"].items():
        cells = [size, f"{step['bytes'] / 1e3:,.0f}", f"{step['full ms']:.1f}", f"{step['reduced ms']:.1f}"]
        gpus = [f"{PUBLISHED[model] * HALF * step['reduced ms'] / 1e3:,.0f}" for model in NAMES]
        rows.append((*cells, *gpus))
    names = [f"cores for a GPU of {name}:" for name in NAMES.values()]
    return table(("pixels", "kB:", "decoded whole (ms):", "reduced (ms):", *names), rows)


def models() -> str:
    """What an image costs a core, by engine, and a GPU."""
    rows = []
    for key, name in NAMES.items():
        step = read()["models"][key]
        rates = [f"{PUBLISHED[key]:,.0f}", f"{PUBLISHED[key] * HALF:,.0f}"]
        numbers = [f"{step['macs'] / 1e9:.2f}", f"{step['plain ms']:.1f}", f"{step['openvino ms']:.1f}"]
        rows.append((name, *numbers, *rates))
    names = ("GMACs:", "plain (ms):", "openvino (ms):", "GPU, published (images/s):", "in float32 (images/s):")
    return table(("model", *names), rows)


def times() -> str:
    """How long the collections take, what limits them, and what is read meanwhile."""
    rows = []
    for key, name in NAMES.items():
        for machines in CLUSTERS:
            rates = estimate(key, machines)
            spent = [show_time(count / rates.all) for count in COLLECTIONS.values()]
            read_rate = rates.all * read()["decode"][IMAGE]["bytes"] / 1e9
            rows.append((name, machines.name, f"{rates.all:,.0f}", *spent, rates.limit, f"{read_rate:.2f}"))
    collections = [f"{name}:" for name in COLLECTIONS]
    return table(("model", "machines", "images/s:", *collections, "limit", "reads (GB/s):"), rows)


def volumes() -> str:
    """What is read, written, listed and looked at."""
    steps, rows = read(), []
    for name, count in COLLECTIONS.items():
        written = [f"{count * (steps['models'][key]['values'] * 4 + 60) / 1e9:,.1f}" for key in NAMES]
        listing = show_time(count * steps["file us"] / 1e6)
        shards = -(-count // SHARD)
        looking = show_time(shards * steps["shard ms"] / 1e3)
        volume = f"{count * steps['decode'][IMAGE]['bytes'] / 1e9:,.0f}"
        rows.append((name, volume, *written, listing, f"{shards:,}", looking))
    names = [f"{name} writes (GB):" for name in NAMES.values()]
    return table(("images", "read (GB):", *names, "listing a folder:", "files:", "looking at them:"), rows)


def ray() -> str:
    """What an image takes of a core in actors of Ray, beside what the steps predict."""
    steps, rows = read(), []
    for key, found in steps.get("ray", {}).items():
        model, decode = steps["models"][key]["plain ms"], steps["decode"]["256 to 1000"]["reduced ms"]
        wanted = model + decode + steps["row us"] / 1e3
        numbers = (f"{wanted:.1f}", f"{found['core ms']:.1f}", f"{found['core ms'] / wanted:.2f}")
        rows.append((NAMES[key], *numbers, f"{2e3 / found['core ms']:.1f}"))
    names = ("predicted (ms):", "measured (ms):", "ratio:", "two such cores would do (images/s):")
    return table(("model", *names), rows)


def machine() -> str:
    """Where the steps were measured."""
    return f"Measured on {read()['machine']}."


def show_time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.0f} s"
