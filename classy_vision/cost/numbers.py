"""Numbers as text."""

from __future__ import annotations

from collections.abc import Sequence

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K"))


def human(number: int) -> str:
    """Three digits and a unit: 25557032 is "25.6M"."""
    # 999_500 would round to 1000K.
    unit, letter = next(((u, s) for u, s in _UNITS if number >= 0.9995 * u), (1, ""))
    value = number / unit
    return f"{value:.{0 if value >= 99.95 or not letter else 1 if value >= 9.995 else 2}f}{letter}"


def size(shape: Sequence[int]) -> str:
    """(256, 56, 56) is "256×56×56"."""
    return "\N{MULTIPLICATION SIGN}".join(map(str, shape))
