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
EDGE = "#8a6d52"
PAPER = "#ffffff"
