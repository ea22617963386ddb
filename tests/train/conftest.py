"""A table of small images whose labels can be learned."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

COLOURS = ["red", "lime", "blue"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table that the test may change."""
    return make_table(tmp_path)


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
