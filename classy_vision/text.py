"""Numbers and rows as text, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from classy_vision.errors import ConfigError

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


def dump(data: Any, rows: Sequence[Mapping[str, Any]], as_json: bool, as_csv: bool) -> str | None:
    """``data`` as JSON, or ``rows`` as CSV with lists joined by "x"; None where neither is wanted.

    Raises:
        ConfigError: both are.
    """
    if as_json and as_csv:
        raise ConfigError("--json and --csv are two forms of the same output: give one of them")
    if as_json:
        return json.dumps(data, indent=2)
    if not as_csv:
        return None
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: "x".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in row.items()}
        writer.writerow(cells)
    return text.getvalue().rstrip("\n")


def list_some(names: Iterable[str], most: int = 10) -> str:
    """The first names in quotes, separated by commas; "none" if there are none."""
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (", …" if len(names) > most else "") if names else "none"
