"""A table of small images with a mask and a map each, and a head that answers for each pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from classy_vision.config import PositiveInt
from classy_vision.heads import HEADS, ClassyHead, register_head
from tests.train.command import job

COLOURS = ((230, 30, 30), (30, 230, 30), (30, 30, 230))
CLASSES = ["red", "lime", "blue"]
SIDE = 16


class TinyDense(ClassyHead):
    """A 1x1 convolution: (n, c, h, w) to (n, num_classes, h, w)."""

    def __init__(
        self,
        unique_id: str | int | None = None,
        num_classes: PositiveInt | None = None,
        in_plane: PositiveInt | None = None,
    ) -> None:
        super().__init__(unique_id, num_classes)
        if in_plane is not None:
            self.build(in_plane)

    def build(self, in_plane: int) -> None:
        self.in_plane = in_plane
        self.conv = nn.Conv2d(in_plane, self.num_classes or 1, 1)

    def output_layers(self) -> list[Any]:
        return [self.conv]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def register() -> None:
    """Gives the head its name for the rest of a test."""
    if "tiny_dense" not in [entry.name for entry in HEADS]:
        register_head("tiny_dense")(TinyDense)


def dense(name: str, block: str = "block1", **options: Any) -> dict[str, Any]:
    return {"name": "tiny_dense", "unique_id": name, "fork_block": block, **options}


def make_dense_table(root: Path, count: int = 16) -> Path:
    """Images of two halves in two colours, the masks of these, and a depth; some rows lack some labels."""
    rows = ["path,split,mask,depth,left"]
    for n in range(count):
        left, right = n % 3, (n // 3 + n + 1) % 3
        at = 4 + n % 8
        codes = np.where(np.arange(SIDE)[None, :] < at, left, right) * np.ones((SIDE, 1), int)
        codes = codes.astype(np.uint8)
        Image.fromarray(np.array(COLOURS, np.uint8)[codes]).save(root / f"{n}.png")
        mask = Image.fromarray(codes)
        mask.putpalette([value for colour in COLOURS for value in colour])
        mask.save(root / f"{n}.mask.png")
        depth = 1000 + 500 * codes.astype(np.uint16)
        depth[:2] = 0
        Image.fromarray(depth).save(root / f"{n}.depth.png")
        cells = [f"{n}.mask.png", f"{n}.depth.png", CLASSES[left]]
        cells = ["" if (n + i) % 7 == 6 else cell for i, cell in enumerate(cells)]
        rows.append(",".join([f"{n}.png", "val" if n % 4 == 0 else "train", *cells]))
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    return root / "table.csv"


TASKS: dict[str, Any] = {
    "mask": {"kind": "segmentation", "classes": CLASSES},
    "depth": {"kind": "dense_regression", "missing": 0, "scale": 0.001},
    "left": {},
}


def dense_job(table: Path, **sections: Any) -> dict[str, Any]:
    """A mask, a map and a class, at three places of one trunk."""
    data = {"source": "table", "file": str(table), "image_size": SIDE, **sections.pop("data", {})}
    heads = [dense("mask"), dense("depth", "block2"), {"name": "fully_connected", "unique_id": "left"}]
    heads[-1]["fork_block"] = "trunk_output"
    tasks = {name: {**TASKS[name], **sections.pop(name, {})} for name in TASKS}
    return job(data, *heads, tasks=tasks, **sections)
