"""Exact nearest neighbours by cosine, in memory that grows with the rows and not with their pairs.

Blocks of similarities in float32 give candidates, which are then scored in float64. Where rounding could have
hidden a neighbour, the block is computed again in float64, and in the end for every pair. So the result does
not depend on blocks, devices or threads: the order is that of the similarities in float64, ties by row.

Axes: n rows, u rows that differ, q queries, c channels, m candidates, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch

from classy_vision.embed.stored import Array

QUERIES, KEYS = 2048, 8192
"""Rows whose similarities are in memory at once: 64 MB in float32."""
VALUES = 2**22
"""Values of pairs that are scored at once, in float64."""
SPARE = 16
"""Candidates beyond the neighbours, so that rounding seldom makes it necessary to look again."""
ROUNDING = {torch.float32: 2.0**-24, torch.float64: 2.0**-53}


@dataclass(frozen=True)
class Nearest:
    """Neighbours, the nearest first.

    Attributes:
        rows: their numbers, (q, k).
        similarities: the cosines, (q, k) in float64. Vectors of zeros have 0 with all others.
    """

    rows: Array
    similarities: Array


class Index:
    """Vectors in which neighbours are looked for. Equal vectors are compared once.

    Args:
        features: (n, c), perhaps mapped from a file.
        device: where similarities are computed.

    Attributes:
        not_finite: the first row that has a value which is not a finite number; None where there is none.
    """

    def __init__(self, features: Array, device: torch.device | str = "cpu") -> None:
        self._features, self._device = features, torch.device(device)
        self.not_finite: int | None = None
        of, firsts = _find_copies(features)
        self._of, self._firsts = of, firsts
        self._order = np.argsort(of, kind="stable")
        self._counts = np.bincount(of, minlength=len(firsts))
        self._starts = np.cumsum(self._counts) - self._counts
        for start in range(0, len(features), KEYS):
            odd = ~np.isfinite(features[start : start + KEYS]).all(1)
            if odd.any():
                self.not_finite = start + int(odd.argmax())
                break

    def join(self, k: int, progress: Callable[[int, int], object] | None = None) -> Nearest:
        """Finds the neighbours of each row among the others.

        Args:
            k: how many, less than n.
            progress: is called with the number of rows that are done, and of all.
        """
        parts = []
        for start in range(0, len(self._firsts), QUERIES):
            parts.append(self.search(self._features[self._firsts[start : start + QUERIES]], k + 1))
            if progress is not None:
                progress(min(start + QUERIES, len(self._firsts)), len(self._firsts))
        rows = np.concatenate([part.rows for part in parts])[self._of]
        similarities = np.concatenate([part.similarities for part in parts])[self._of]
        own = rows == np.arange(len(rows))[:, None]
        own[~own.any(1), -1] = True  # that of a copy is not far enough back to matter
        return Nearest(rows[~own].reshape(-1, k), similarities[~own].reshape(-1, k))

    def search(self, queries: Array, k: int) -> Nearest:
        """Finds the rows that are nearest to other vectors.

        Args:
            queries: (q, c).
            k: how many, at most n.
        """
        units = normalize(queries)
        rows, similarities = np.empty((len(units), k), np.int64), np.empty((len(units), k))
        for start in range(0, len(units), QUERIES):
            part = slice(start, start + QUERIES)
            self._search(units[part], rows[part], similarities[part])
        return Nearest(rows, similarities)

    def _search(self, units: Array, rows: Array, similarities: Array) -> None:
        """Fills in the neighbours of a block of queries; looks again for those that are not certain."""
        k, todo = rows.shape[1], np.arange(len(units))
        for dtype in ROUNDING:
            found, rest = self._scan(units[todo], k + SPARE, dtype)
            scores = self._score(units[todo], found)
            error = (units.shape[1] + 8) * (ROUNDING[dtype] + ROUNDING[torch.float64])
            complete = found.shape[1] == len(self._firsts)
            sure = np.full(len(todo), True) if complete else _find_kth(scores, k) > rest + error
            rows[todo[sure]], similarities[todo[sure]] = self._spread(found[sure], scores[sure], k)
            todo = todo[~sure]
            if not todo.size:
                return
        everything = np.arange(len(self._firsts))[None]
        for query in todo:
            scores = self._score(units[query : query + 1], everything)
            (rows[query],), (similarities[query],) = self._spread(everything, scores, k)

    def _scan(self, units: Array, count: int, dtype: torch.dtype) -> tuple[Array, Array]:
        """Finds candidates among the vectors that differ.

        Returns:
            Their numbers (q, m), and the rounded similarity (q,) that no other vector exceeds.
        """
        device = self._device if dtype == torch.float32 else torch.device("cpu")
        queries = torch.from_numpy(units).to(dtype).to(device)
        best, where = (
            queries.new_empty(len(units), 0),
            torch.empty(len(units), 0, dtype=torch.long, device=device),
        )
        with _without_shortcuts():
            for start in range(0, len(self._firsts), KEYS):
                keys = normalize(self._features[self._firsts[start : start + KEYS]])
                block = queries @ torch.from_numpy(keys).to(dtype).to(device).T
                top, at = block.topk(min(count, block.shape[1]), 1)
                best, where = torch.cat([best, top], 1), torch.cat([where, at + start], 1)
                best, kept = best.topk(min(count, best.shape[1]), 1)
                where = where.gather(1, kept)
        return where.cpu().numpy(), best[:, -1].double().cpu().numpy()

    def _score(self, units: Array, found: Array) -> Array:
        """Computes the similarities (q, m) of queries and candidates; those of a pair are always the same."""
        queries, keys = np.repeat(np.arange(len(found)), found.shape[1]), found.ravel()
        scores, step = np.empty(len(keys)), max(1, VALUES // max(1, units.shape[1]))
        for start in range(0, len(keys), step):
            part = slice(start, start + step)
            vectors = normalize(self._features[self._firsts[keys[part]]])
            scores[part] = compare(units[queries[part]], vectors)
        return scores.reshape(found.shape)

    def _spread(self, found: Array, scores: Array, k: int) -> tuple[Array, Array]:
        """Ranks the rows that have the candidates' vectors: the similar ones first, ties by row."""
        counts = np.minimum(self._counts[found], k).ravel()
        owners = np.repeat(np.repeat(np.arange(len(found)), found.shape[1]), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self._order[np.repeat(self._starts[found].ravel(), counts) + within]
        similarities = np.repeat(scores.ravel(), counts)
        ranked = np.lexsort((rows, -similarities, owners))
        lengths = np.bincount(owners, minlength=len(found))
        chosen = ranked[(np.cumsum(lengths) - lengths)[:, None] + np.arange(k)]
        return rows[chosen], similarities[chosen]


def normalize(features: Array) -> Array:
    """Scales vectors (n, c) to length 1, in float64; vectors of zeros stay as they are."""
    vectors = features.astype(np.float64)
    largest = np.abs(vectors).max(1, initial=0, keepdims=True)
    vectors /= np.where(largest > 0, largest, 1)  # so that squares neither overflow nor vanish
    lengths = np.sqrt((vectors * vectors).sum(1, keepdims=True))
    result: Array = vectors / np.where(lengths > 0, lengths, 1)
    return result


def compare(units: Array, others: Array) -> Array:
    """Computes the similarities (n,) of vectors (n, c) of length 1, of equal pairs alike to the last bit."""
    result: Array = (units * others).sum(1)
    return result


def _find_kth(scores: Array, k: int) -> Array:
    result: Array = np.partition(scores, -k, 1)[:, -k]
    return result


def _find_copies(features: Array) -> tuple[Array, Array]:
    """Returns the number of each row's vector (n,), and the first row with each vector (u,)."""
    numbers: dict[bytes, int] = {}
    of, firsts = np.empty(len(features), np.int64), list[int]()
    for row, vector in enumerate(features):
        number = numbers.setdefault(blake2b(vector.tobytes(), digest_size=16).digest(), len(firsts))
        if number == len(firsts):
            firsts.append(row)
        of[row] = number
    return of, np.array(firsts)


@contextmanager
def _without_shortcuts() -> Iterator[None]:
    """Multiplies matrices in float32 as such: in TF32 or bfloat16 the bound of the rounding would not hold."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
