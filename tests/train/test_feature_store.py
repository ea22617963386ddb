"""Features on disk: shards of one feature, and room for others."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from classy_vision.train import feature_store
from classy_vision.train.feature_store import CacheError, StoredFeature, find_root, find_size, make_room


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of features of this test alone."""
    monkeypatch.setenv(feature_store.FOLDER, str(tmp_path / "features"))
    return tmp_path / "features"


def write(root: Path) -> StoredFeature:
    stored = StoredFeature(root, {"of": "something"}, 7, 3, 8)
    stored.begin()
    for shard in stored.shards:
        errors = {0: "no image"} if shard == 1 else {}
        stored.write(shard, torch.tensor(stored.span(shard))[:, None].float(), errors)
    return stored


def test_rows_are_read_back(root: Path) -> None:
    stored = write(root)
    assert stored.count_missing() == 0
    found = stored.open()
    assert found.read(torch.tensor([6, 0, 3, 3])).tolist() == [[6], [0], [3], [3]]
    assert found.errors == {3: "no image"}
    stored.clean()
    assert [stored.has(shard) for shard in stored.shards] == [True, False, True]
    assert stored.count_missing() == 3
    assert StoredFeature(root, {"of": "something else"}, 7, 3, 8).count_missing() == 7


@pytest.mark.parametrize("text", ["[1]", "{", "7"])
def test_a_damaged_description_is_passed_over(text: str, root: Path) -> None:
    (write(root).folder / "about.json").write_text(text)
    assert StoredFeature(root, {"of": "something else"}, 7, 3, 8).find_difference() == ""


def test_what_is_read_for_long_counts_as_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(feature_store.LIMIT, "1e-6")
    stored = write(root)
    found = stored.open()
    os.utime(stored.folder / "about.json", times=(time.time() - 9000,) * 2)
    monkeypatch.setattr(feature_store, "AGAIN", -1.0)
    found.read(torch.tensor([0]))
    with pytest.raises(CacheError, match="those of other runs"):
        make_room(root, 900, set())
    assert stored.count_missing() == 0
    os.utime(stored.folder / "about.json", times=(time.time() - 9000,) * 2)
    make_room(root, 900, set())
    assert not stored.folder.exists()


def test_shards_of_all_features_begin_together() -> None:
    sizes = [find_size(12, row_bytes) for row_bytes in (1, 40_000, 300_000, 2**30)]
    assert sizes == [768, 768, 96, 12]
    assert find_size(4096, 4) == 4096


def test_features_that_were_not_used_for_long_make_room(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(feature_store.LIMIT, "1e-6")
    old, older, recent, own, others = ("0" * 32, "1" * 32, "2" * 32, "3" * 32, "photographs")
    for name, age in ((old, 9000), (older, 9900), (recent, 5), (own, 9999), (others, 9999)):
        (root / name).mkdir(parents=True)
        (root / name / "shard-000000.safetensors").write_bytes(bytes(250))
        (root / name / "about.json").touch()
        os.utime(root / name / "about.json", times=(time.time() - age,) * 2)
    with pytest.raises(CacheError, match="those of other runs 500B"):
        make_room(root, 600, {root / own})
    assert {path.name for path in root.iterdir()} == {old, older, recent, own, others}
    make_room(root, 200, {root / own})
    assert {path.name for path in root.iterdir()} == {old, recent, own, others}
    make_room(root, 400, {root / own})
    assert {path.name for path in root.iterdir()} == {recent, own, others}


def test_where_features_are(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    assert find_root() == root
    monkeypatch.delenv(feature_store.FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert find_root() == Path("/cache/classy_vision/features")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert find_root() == Path.home() / ".cache/classy_vision/features"
