"""A table of small images, and a folder of small videos, whose labels can be learned."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.data.videos import make_videos

COLOURS = ["red", "lime", "blue"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table that the test may change."""
    return make_table(tmp_path)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos that a test must not change: 16 to train on, 8 held out."""
    return make_videos(tmp_path_factory.mktemp("videos"), train=4, val=2, frames=12)


def make_table(root: Path) -> Path:
    """24 images: a colour, how light, and what is true of them; every fifth cell is missing."""
    rows = ["path,split,colour,light,tags"]
    for n in range(24):
        colour, light = COLOURS[n % 3], (n // 3) / 8
        image = Image.blend(Image.new("RGB", (9, 8), colour), Image.new("RGB", (9, 8)), light)
        image.save(root / f"{n}.png")
        tags = "warm" if colour == "red" else "cold;dull" if light < 0.5 else ";"
        cells = [colour, f"{light:.3f}", tags]
        cells = ["" if (n + i) % 5 == 0 else cell for i, cell in enumerate(cells)]
        rows.append(",".join([f"{n}.png", "val" if n % 4 == 0 else "train", *cells]))
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    return root / "table.csv"
