"""Colours: from cream to brown for costs, blue for heads. Told apart by the colour-blind and in grey."""

from __future__ import annotations

HEAT = ("#fdebc8", "#e58a3a", "#7a2308")
HEAT_ON_DARK = ("#40372c", "#c96a1e", "#ffdca3")

HEAD = "#2563eb"
INK = "#1b1d21"
MUTED = "#5c6370"
REST = "#c3c8d0"
FAINT = "#e4e7ec"
EXTENT = "#aab4c2"
PAPER = "#ffffff"


def heat(share: float) -> str:
    """The colour of ``share`` from 0 to 1, as the page's style sheet mixes it."""
    low, middle, high = HEAT
    return _mix(low, middle, 2 * share) if share < 0.5 else _mix(middle, high, 2 * share - 1)


def _mix(first: str, second: str, share: float) -> str:
    pairs = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
