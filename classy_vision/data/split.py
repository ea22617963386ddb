"""Which rows are held out where the data do not say: the same part of each class, by a seed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random
from typing import NamedTuple


class Stratum(NamedTuple):
    """Rows that are alike in one column.

    Attributes:
        column: its name.
        value: a class, a label or a bin of numbers; None where there is none of them.
        needed: hold out a row even where the fraction of them would be none.
    """

    column: str
    value: str | int | None
    needed: bool = False


Strata = Sequence[Collection[Stratum]]
"""Those of each row."""


def hold_out(strata: Strata, fraction: float, seed: int) -> list[bool]:
    """Holds out ``fraction`` of the rows in each stratum, and of each class at least one of two.

    A row may be in several strata, as with several labels: those with the fewest rows are served
    first (Sechidis et al., "On the Stratification of Multi-Label Data", 2011). Every stratum
    keeps a row that is trained on.

    Args:
        strata: by row.
        fraction: of the rows.
        seed: draws which rows they are.
    """
    codes: dict[Stratum, int] = {}
    codes_of = [[codes.setdefault(stratum, len(codes)) for stratum in row] for row in strata]
    rows_of: list[list[int]] = [[] for _ in codes]
    for row in Random(seed).sample(range(len(strata)), len(strata)):
        for code in codes_of[row]:
            rows_of[code].append(row)
    wanted = [_share(stratum, len(rows_of[code]), fraction) for stratum, code in codes.items()]
    held: dict[int, bool] = {}
    for _, _, code in sorted((len(rows_of[code]), repr(stratum), code) for stratum, code in codes.items()):
        for row in rows_of[code]:
            if row not in held:
                held[row] = wanted[code] > 0
                for each in codes_of[row] if held[row] else ():
                    wanted[each] -= 1
    for rows in rows_of:
        if all(held[row] for row in rows):
            held[rows[0]] = False
    return [held.get(row, False) for row in range(len(strata))]


def _share(stratum: Stratum, count: int, fraction: float) -> int:
    return min(count - 1, max(int(stratum.needed), round(count * fraction)))
