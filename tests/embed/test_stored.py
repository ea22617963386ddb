"""Embeddings read back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from classy_vision.config import ConfigError
from classy_vision.embed import Embeddings, embed, load
from classy_vision.embed import folder as folders


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
