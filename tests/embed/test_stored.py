"""Embeddings read back."""

from __future__ import annotations

import resource
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from classy_vision.config import ConfigError
from classy_vision.embed import Embeddings, embed, load
from classy_vision.embed import folder as folders
from classy_vision.embed.folder import Layout, open_shard
from classy_vision.embed.sources import Sample
from classy_vision.errors import OperationError
from tests.embed.collections import write_embeddings


@pytest.fixture
def stored(
    model: Path, make_images: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Embeddings:
    monkeypatch.setattr(folders, "BUFFER", 3 * 4 * 8 * 17)  # several row groups in a shard
    options = {"blocks": ["block1"], "pooling": ["mean", "map"], "device": "cpu"}
    embed(model, make_images(11), tmp_path / "out", shard_size=8, **options)  # type: ignore[arg-type]  # of any type
    return load(tmp_path / "out")


def test_arrays_tensors_and_maps_of_files(stored: Embeddings) -> None:
    assert [*stored] == ["block1/mean", "block1/map"]
    assert (stored.rows, len(stored), stored.columns) == (11, 2, ["id", "path", "label"])
    maps = stored["block1/map"]
    assert maps.shape == stored.shape("block1/map") == (11, 8, 4, 4)
    np.testing.assert_allclose(maps.mean((2, 3)), stored["block1/mean"], atol=1e-6)
    assert torch.equal(stored.tensor("block1/map"), torch.from_numpy(maps))
    mapped = stored.memmap("block1/map")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, maps)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0


def test_a_map_of_a_file_is_made_again_when_embeddings_are(
    stored: Embeddings, make_images: Callable[..., Path], model: Path
) -> None:
    stored.memmap("block1/mean")
    embed(model, make_images(3, "few"), stored.folder, blocks=["block1"], force=True, device="cpu")
    assert load(stored.folder).memmap("block1/mean").shape == (3, 8)


@pytest.mark.parametrize("name", ["block2/mean", "label"])
def test_names_that_are_not_there(stored: Embeddings, name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown column '{name}'"):
        stored[name]
    with pytest.raises(ConfigError, match="unknown column 'labels'; did you mean 'label'"):
        stored.column("labels")


def test_reading_needs_no_torch(stored: Embeddings) -> None:
    code = (
        f"import sys; from classy_vision.embed import load; found = load({str(stored.folder)!r}); "
        f"print(found['block1/mean'].shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(11, 8) False\n"


def test_a_map_of_a_file_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is written and not mapped meanwhile: a mapping for which there is no room ends the process."""
    stored = load(write_embeddings(tmp_path / "out", {"x": np.ones((5, 400), np.float32)}))
    open_memmap: Any = np.lib.format.open_memmap

    def only_read(file: Any, mode: str = "r+", *rest: Any, **options: Any) -> Any:
        assert mode == "r"
        return open_memmap(file, mode, *rest, **options)

    monkeypatch.setattr(np.lib.format, "open_memmap", only_read)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
        with pytest.raises(OperationError, match=r"cannot write '.*\.x\.npy': File too large"):
            stored.memmap("x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("out/.*part"))
    assert stored.memmap("x").sum() == 2000


def test_a_file_of_rows_that_was_damaged(stored: Embeddings) -> None:
    shard = stored.folder / "shard-000000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    said = r"cannot read 'shard-000000.parquet' in '.*out', which classy embed --resume makes again: "
    for read in (stored.__getitem__, stored.memmap):
        with pytest.raises(ConfigError, match=said):
            read("block1/mean")
    with pytest.raises(ConfigError, match=said):
        stored.column("label")
    shard.unlink()
    with pytest.raises(ConfigError, match=said):
        _ = stored.columns


def test_rows_that_are_not_those_of_the_manifest(stored: Embeddings) -> None:
    """As where another command is replacing them."""
    for rows in (10, 12):
        other = Embeddings(stored.folder, {**stored.manifest, "rows": rows})
        with pytest.raises(ConfigError, match=f"has 11 rows, and its manifest says {rows}"):
            other["block1/mean"]


def test_embeddings_of_images_none_of_which_can_be_read(
    model: Path, make_images: Callable[..., Path], tmp_path: Path
) -> None:
    for file in (images := make_images(3)).glob("*/*"):
        file.write_bytes(b"damaged")
    embed(model, images, tmp_path / "out", blocks=["block1"], pooling=["mean", "map"], device="cpu")
    found = load(tmp_path / "out")
    assert (found.rows, found.ids, found.columns) == (0, [], ["id", "path", "label"])
    assert found["block1/map"].shape == found.memmap("block1/map").shape == (0, 8, 4, 4)


def test_what_images_are_read_from_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor are many rows, however small they are."""
    monkeypatch.setattr(folders, "ROWS", 3)

    class Data:
        pass

    with open_shard(tmp_path / "shard.parquet", Layout({"x": (2,)}, "float32", pyarrow.schema([]))) as writer:
        for n in range(7):
            data = Data()
            there = weakref.ref(data)
            writer.add(Sample(str(n), data), {"x": np.zeros(2, np.float32)})
            del data
            assert there() is None
    file = parquet.ParquetFile(tmp_path / "shard.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [3, 3, 1]
