"""Evaluations of heads with an answer for each pixel: the masks in files against whole images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score, mean_squared_error

from classy_vision.config import ConfigError
from classy_vision.evaluate import evaluate
from classy_vision.models import build_model
from classy_vision.predict import Predictor
from tests.train.command import SMALL_TRUNK, head
from tests.train.dense import CLASSES, dense, make_dense_table, register

TASKS = {
    "mask": {"kind": "segmentation", "classes": CLASSES},
    "depth": {"kind": "dense_regression"},
    "left": {"kind": "classification", "classes": CLASSES},
}


@pytest.fixture
def predictor() -> Predictor:
    register()
    torch.manual_seed(0)
    heads = [dense("mask", num_classes=3), dense("depth", "block2", num_classes=1), head("left", num_classes=3)]
    config = {**SMALL_TRUNK, "heads": heads, "tasks": TASKS, "preprocessing": {"image_size": 16}}
    return Predictor.of_model(build_model(config).eval(), device="cpu")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return make_dense_table(tmp_path)


def test_masks_and_maps_are_measured_in_their_own_size(
    predictor: Predictor, table: Path, tmp_path: Path
) -> None:
    wide = np.zeros((10, 30), np.uint8)  # a row of another size and shape, with pixels that are ignored
    Image.fromarray(np.stack([wide + 99] * 3, 2)).save(tmp_path / "4.png")
    wide[:, 9:] = 255
    Image.fromarray(wide).save(tmp_path / "4.mask.png")
    Image.fromarray(np.ones((10, 30), np.uint16)).save(tmp_path / "4.depth.png")
    found = evaluate(predictor, table, output=tmp_path / "out")
    true: dict[str, list[np.ndarray]] = {"mask": [], "depth": []}
    said: dict[str, list[np.ndarray]] = {"mask": [], "depth": []}
    with table.open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    for row in rows:
        prediction = predictor(tmp_path / row["path"])
        for name in ("mask", "depth"):
            if row[name]:
                labels = np.asarray(Image.open(tmp_path / row[name]))
                known = labels != 255 if name == "mask" else np.ones_like(labels, bool)
                pixels = prediction[name].pixels
                assert pixels is not None
                true[name].append(labels[known])
                said[name].append(pixels[known])
    masks = np.concatenate(true["mask"]), np.concatenate(said["mask"])
    maps = np.concatenate(true["depth"]).astype(float), np.concatenate(said["depth"])
    assert found.metrics["mask"]["mIoU"] == pytest.approx(jaccard_score(*masks, average="macro"))
    assert found.metrics["depth"]["rmse"] == pytest.approx(mean_squared_error(*maps) ** 0.5)
    of_class = jaccard_score(*masks, average=None)
    assert [found.heads["mask"].classes[name]["iou"] for name in CLASSES] == pytest.approx(of_class)
    assert found.heads["mask"].count == len(true["mask"])
    assert "accuracy" in found.metrics["left"]
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written == found.as_dict()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"mask.confusion.png", "mask.confusion.csv", "left.confusion.png"} <= names
    assert "depth.scatter.png" not in names


def test_a_mask_of_another_size_is_named(predictor: Predictor, table: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "4.mask.png")
    with pytest.raises(
        ConfigError, match=r"4.mask.png: 4x4 pixels, but the image has 16x16. It is the mask of"
    ):
        evaluate(predictor, table)
