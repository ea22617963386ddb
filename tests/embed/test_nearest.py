"""Neighbours are those of a plain computation, in the same order, whatever rounding and blocks do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classy_vision.embed import nearest
from classy_vision.embed.nearest import Index, Nearest

Array = np.ndarray[Any, Any]
COUNT, CHANNELS = 300, 33


def search_plainly(features: Array, queries: Array, k: int, *, without_own: bool = False) -> Nearest:
    """Compares every query with every row in float64, and sorts."""
    vectors, wanted = (values.astype(np.float64) for values in (features, queries))
    vectors, wanted = nearest.normalize(vectors), nearest.normalize(wanted)
    cosines = np.array([[(one * other).sum() for other in vectors] for one in wanted])
    if without_own:
        np.fill_diagonal(cosines, -np.inf)
    rows = np.array([sorted(range(len(vectors)), key=lambda row: (-line[row], row)) for line in cosines])[:, :k]
    return Nearest(rows, np.take_along_axis(cosines, rows, 1))


def check_same(found: Nearest, wanted: Nearest) -> None:
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.similarities, wanted.similarities)


def plain(draw: np.random.Generator) -> Array:
    return draw.standard_normal((COUNT, CHANNELS))


def copies(draw: np.random.Generator) -> Array:
    features = plain(draw)
    features[100:180] = features[5]
    features[200:220] = features[220:240]
    return features


def collapsed(draw: np.random.Generator) -> Array:
    """All cosines are within the rounding of float32."""
    return 1 + 1e-4 * plain(draw)


def multiples(draw: np.random.Generator) -> Array:
    """All cosines are within the rounding of float64."""
    return np.outer(np.arange(1, COUNT + 1), plain(draw)[0])


def zeros(draw: np.random.Generator) -> Array:
    features = np.zeros((COUNT, CHANNELS))
    features[7] = 1
    return features


def large(draw: np.random.Generator) -> Array:
    """Their squares are beyond float32."""
    return 1e30 * plain(draw)


@pytest.mark.parametrize("kind", [plain, copies, collapsed, multiples, zeros, large], ids=lambda f: f.__name__)
@pytest.mark.parametrize("k", [1, 10, COUNT - 1])
def test_they_are_those_of_a_plain_computation(kind: Any, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "QUERIES", 70)
    monkeypatch.setattr(nearest, "KEYS", 64)
    monkeypatch.setattr(nearest, "VALUES", 1000)
    draw = np.random.default_rng(0)
    features = kind(draw).astype(np.float32)
    index = Index(features)
    check_same(index.join(k), search_plainly(features, features, k, without_own=True))
    queries = np.concatenate([features[:3], draw.standard_normal((4, CHANNELS), dtype=np.float32)])
    check_same(index.search(queries, k), search_plainly(features, queries, k))


def test_float16_and_a_map_of_a_file(tmp_path: Path) -> None:
    features = copies(np.random.default_rng(1)).astype(np.float16)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    check_same(Index(mapped).join(5), search_plainly(features, features, 5, without_own=True))


def test_they_do_not_depend_on_the_precision_of_products() -> None:
    features = collapsed(np.random.default_rng(2)).astype(np.float32)
    wanted = Index(features).join(8)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        check_same(Index(features).join(8), wanted)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_first_row_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "KEYS", 64)
    features = plain(np.random.default_rng(3)).astype(np.float32)
    assert Index(features).not_finite is None
    features[90, 3], features[80, 1] = np.nan, np.inf
    assert Index(features).not_finite == 80


def test_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "QUERIES", 128)
    said: list[tuple[int, int]] = []
    Index(plain(np.random.default_rng(4))).join(3, lambda done, total: said.append((done, total)))
    assert said == [(128, COUNT), (256, COUNT), (COUNT, COUNT)]


CODE = """
import json, resource, sys
import numpy as np
from classy_vision.embed.nearest import Index
features = np.load(sys.argv[1], mmap_mode="r")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = Index(features).join(10).rows
print(json.dumps([rows.shape[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_pairs(tmp_path: Path) -> None:
    """All similarities of 100,000 rows would take 40 GB in float32."""
    features = np.random.default_rng(0).standard_normal((100_000, 16), dtype=np.float32)
    np.save(tmp_path / "features.npy", features)
    words = [sys.executable, "-c", CODE, str(tmp_path / "features.npy")]
    rows, kilobytes = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert rows == 100_000
    assert kilobytes < 700_000, kilobytes
