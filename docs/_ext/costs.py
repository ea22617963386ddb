"""Costs that others have published, beside ours: ``published.json`` has theirs, source by source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from classy_vision.presets import known_costs

from .markdown import code, table

FILE = Path(__file__).with_name("published.json")
TOLERANCE = 0.01
METRICS = {"params": (1e6, "M params"), "macs": (1e9, "GMACs"), "activations": (1e6, "M activations")}

# Why a number of theirs is not ours: (source, preset, ...): reason.
REASONS = {
    (
        "torchvision",
        "regnet_x_400mf",
    ): "widths half-way between two multiples of the group width are rounded up "
    "there, and to the even multiple in pycls and here",
    ("torchvision", "regnet_y_800mf"): "as regnet_x_400mf",
    ("torchvision", "regnet_y_8gf"): "as regnet_x_400mf",
    ("torchvision", "efficientnet_b2"): "counted for images of 288 pixels; the paper's are 260",
    ("torchvision", "r3d_18"): "400 classes",
    ("torchvision", "mc3_18"): "400 classes",
    ("torchvision", "r2plus1d_18"): "400 classes",
}


def published() -> dict[str, dict[str, Any]]:
    """By source its ``title``, ``url`` and ``rows``: numbers by preset and metric."""
    sources: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return sources


def comparisons() -> Iterator[tuple[str, str, str, int, int]]:
    """(source, preset, metric, theirs, ours) for every number that was published."""
    ours = known_costs()
    for source, entry in published().items():
        for preset, row in entry["rows"].items():
            for metric, theirs in row.items():
                yield source, preset, metric, theirs, ours[preset][metric]


def agreement() -> str:
    """A row per source: how many numbers, and how far apart they are at the most."""
    rows = []
    for source, entry in published().items():
        same = [
            abs(ours / theirs - 1)
            for s, preset, _, theirs, ours in comparisons()
            if s == source and (s, preset) not in REASONS
        ]
        rows.append((f"[{entry['title']}]({entry['url']})", str(len(same)), f"{100 * max(same):.2f} %"))
    return table(("source", "numbers:", "largest difference:"), rows)


def differences() -> str:
    """A row per number that is another, with the reason."""
    rows = [
        (code(preset), METRICS[metric][1], _of(metric, theirs), _of(metric, ours), REASONS[source, preset])
        for source, preset, metric, theirs, ours in comparisons()
        if abs(ours / theirs - 1) > TOLERANCE / 2 and (source, preset) in REASONS
    ]
    return table(("model", "what", "torchvision:", "here:", "reason"), rows)


def regnet() -> str:
    """The complexity columns of the RegNet paper's tables, theirs and ours."""
    ours = known_costs()
    headings = ("model", *(f"{METRICS[metric][1]}{of}:" for metric in METRICS for of in ("", " here")))
    rows = []
    for preset, theirs in published()["pycls"]["rows"].items():
        if preset.startswith("regnet"):
            numbers = (_of(m, row[m]) for m in METRICS for row in (theirs, ours[preset]))
            rows.append((code(preset), *numbers))
    return table(headings, rows)


def _of(metric: str, number: int) -> str:
    return f"{number / METRICS[metric][0]:.2f}"
