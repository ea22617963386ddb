"""Labels of pixels: read as they are in files, and moved with their image."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.data.batches import Samples, _collate
from classy_vision.data.config import DataConfig
from classy_vision.data.images import ImageError
from classy_vision.data.masks import ClassMasks, NumberMaps, check_labels
from classy_vision.data.preprocessing import Preprocessing, View, with_statistics
from classy_vision.data.samples import read_labelled

CLASSES = ["sky", "road", "car"]


def save(path: Path, values: Any, **options: Any) -> str:
    array = np.asarray(values)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return str(path)


def masks(*cells: Any, ignore_index: int = 255) -> ClassMasks:
    return ClassMasks(cells, CLASSES, ignore_index)


CODES = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "npy", "bmp"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_masks_are_read_as_they_are(suffix: str, kind: Any, tmp_path: Path) -> None:
    if suffix == "bmp" and kind is np.uint16:
        pytest.skip("BMP has 8 bits")
    found = masks(save(tmp_path / f"m.{suffix}", CODES.astype(kind))).read(0, tmp_path / "i.jpg", (3, 2))
    assert found is not None
    assert found.tolist() == CODES.tolist()
    assert masks(None).read(0, tmp_path / "i.jpg", (3, 2)) is None


def test_the_colours_of_an_indexed_mask_mean_nothing(tmp_path: Path) -> None:
    image = Image.fromarray(CODES)
    image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save(tmp_path / "m.png", transparency=0)
    found = masks(tmp_path / "m.png").read(0, tmp_path / "i.jpg", (3, 2))
    assert found is not None
    assert found.tolist() == CODES.tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 4), np.uint8), r"4x2 pixels, but the image has 3x2. It is the mask of .*i.jpg"),
        (np.zeros((2, 3, 3), np.uint8), "3 channels, where a mask has one"),
        (
            np.array([[0, 0, 0], [0, 3, 0]], np.uint8),
            "x = 1, y = 1 has class 3, but there are 3 classes, 0 to 2",
        ),
        (np.array([[0, 0, 0], [0, 0, 255]], np.uint8), None),
        (np.array([[0, 0, 0], [0, -1, 0]], np.int32), "has class -1"),
        (np.array([[0.5, 0, 0], [0, 1, 0]], np.float32), "where whole numbers of classes are needed"),
    ],
)
def test_masks_that_do_not_fit(values: Any, message: str | None, tmp_path: Path) -> None:
    suffix = "tif" if values.dtype.kind == "f" or values.dtype == np.int32 else "png"
    path = save(tmp_path / f"m.{suffix}", values)
    if message is None:
        masks(path).read(0, tmp_path / "i.jpg", (3, 2))
        return
    with pytest.raises(ImageError, match=message) as caught:
        masks(path).read(0, tmp_path / "i.jpg", (3, 2))
    assert path in str(caught.value)


def test_a_lossy_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a mask is in a file without losses: .png"):
        masks(save(tmp_path / "m.jpg", CODES)).read(0, tmp_path / "i.jpg", (3, 2))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("m.png", np.array([[1000, 0], [65535, 2]], np.uint16)),
        ("m.tif", np.array([[1000, np.nan], [65535, 2]], np.float32)),
        ("m.npy", np.array([[1000, np.inf], [65535, 2]], np.float64)),
    ],
)
def test_maps_and_what_is_missing_in_them(name: str, values: Any, tmp_path: Path) -> None:
    maps = NumberMaps([save(tmp_path / name, values)], missing=0, scale=0.5)
    found = maps.read(0, tmp_path / "i.jpg", (2, 2))
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.array([[500, np.nan], [32767.5, 1]], np.float32))


def test_a_scale_invariant_loss_takes_positive_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.array([[1, 0]], np.uint16))
    with pytest.raises(ImageError, match="if it stands for none, set missing to it"):
        NumberMaps([path], positive=True).read(0, tmp_path / "i.jpg", (2, 1))
    assert NumberMaps([path], missing=0, positive=True).read(0, tmp_path / "i.jpg", (2, 1)) is not None


def test_averages_leave_out_missing_numbers() -> None:
    """A number beside a gap stays as it is; where more than half of a pixel is a gap, there is none."""
    maps = NumberMaps([])
    labels = np.full((8, 8), 7, np.float32)
    labels[:, 3:] = np.nan
    seen = maps.see(labels, View((0, 0, 8, 8), 4))
    assert set(np.unique(seen[~np.isnan(seen)]).tolist()) == {7.0}
    assert np.isnan(seen[:, 2:]).all()
    assert not np.isnan(seen[:, 0]).any()


@pytest.mark.parametrize("transform", ["exact", "torchvision"])
@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_labels_move_with_their_image(transform: str, augment: str, suffix: str, tmp_path: Path) -> None:
    """The image shows its own coordinates, and so do the mask and the map: they stay together."""
    height, width = 120, 160
    x = np.tile(np.arange(width, dtype=np.float32), (height, 1))
    grey = Image.fromarray(x.astype(np.uint8))
    grey.save(tmp_path / f"i.{suffix}", **({"quality": 100} if suffix == "jpg" else {}))
    labels = {
        "class": ClassMasks([save(tmp_path / "c.png", (x // 20).astype(np.uint8))], list("abcdefgh"), 255),
        "number": NumberMaps([save(tmp_path / "n.npy", x)]),
    }
    data = with_statistics(DataConfig(image_size=16, resize=20, augment=augment, eval_transform=transform), 1)
    for seed in (None, *range(8)):
        rng = None if seed is None else Random(seed)
        views, found = read_labelled(0, tmp_path / f"i.{suffix}", data, 1, labels, rng)
        image = (views[0, 0] * 0.5 + 0.5) * 255
        assert (image - found["number"]).abs().max() < 3.5
        inside = (image % 20 > 4) & (image % 20 < 16)
        assert (image // 20)[inside].tolist() == found["class"][inside].tolist()
    assert Preprocessing(data).read(tmp_path / f"i.{suffix}", 1)[0].size == (16, 16)


def test_a_photograph_that_is_turned_has_an_upright_mask(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (8, 4)).save(tmp_path / "i.jpg", exif=exif)
    labels = {"m": masks(save(tmp_path / "m.png", np.zeros((8, 4), np.uint8)))}
    data = with_statistics(DataConfig(image_size=4), 1)
    assert read_labelled(0, tmp_path / "i.jpg", data, 1, labels)[1]["m"].shape == (4, 4)


def test_batches_hold_the_labels_of_what_can_be_read(tmp_path: Path) -> None:
    images = [Path(save(tmp_path / f"{n}.png", np.zeros((4, 4), np.uint8))) for n in range(3)]
    cells = [save(tmp_path / "a.png", np.ones((4, 4), np.uint8)), str(tmp_path / "lost.png"), None]
    samples = Samples(images, with_statistics(DataConfig(image_size=4), 1), 1, dense={"m": masks(*cells)})
    batch = _collate([samples[0, row] for row in range(3)])
    assert batch.rows.tolist() == [0, 2]
    assert batch.dense["m"].tolist() == torch.stack([torch.ones(4, 4), torch.full((4, 4), 255)]).int().tolist()
    (error,) = batch.errors
    assert "lost.png: no such file. It is the mask of " in error
    assert "1.png" in error
    nothing = _collate([samples[0, 1]])
    assert nothing.dense["m"].shape == (0, 4, 4)


def check(labels: ClassMasks, images: list[Path], **options: Any) -> None:
    check_labels("m", labels, images, {"training": range(len(images))}, DataConfig(**options))


def test_labels_are_looked_at_before_a_run(tmp_path: Path) -> None:
    images = [Path(save(tmp_path / f"{n}.png", np.zeros((4, 4), np.uint8))) for n in range(20)]
    cells: list[Any] = [save(tmp_path / f"m{n}.png", np.zeros((4, 4), np.uint8)) for n in range(20)]
    check(masks(*cells), images)
    with pytest.raises(
        ConfigError, match=r"1 of 20 masks do not exist, the first is '.*lost.png', the mask of .*3.png"
    ):
        check(masks(*cells[:3], str(tmp_path / "lost.png"), *cells[4:]), images)
    check(masks(*cells[:3], str(tmp_path / "lost.png"), *cells[4:]), images, on_bad_image="skip")
    other = save(tmp_path / "other.png", np.zeros((4, 5), np.uint8))
    with pytest.raises(ConfigError, match="other.png: 5x4 pixels, but the image has 4x4"):
        check(masks(*cells[:3], other, *cells[4:]), images)
    ignored = save(tmp_path / "ignored.png", np.full((4, 4), 255, np.uint8))
    check(masks(*[ignored] * 19, cells[0]), images)  # one is enough, wherever it is
    with pytest.raises(
        ConfigError, match="no pixel of the 20 masks of the training split has a label: all of them"
    ):
        check(masks(*[ignored] * 20), images)


def test_half_of_a_pixel_is_enough() -> None:
    assert not math.isnan(NumberMaps([]).see(np.array([[1, np.nan]], np.float32), View((0, 0, 2, 1), 1)).item())
