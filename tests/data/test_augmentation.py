"""What is changed at random in training images: each change does what it says, and masks follow."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.data.augmentation import OPERATIONS, draw_changes, draw_hole, draw_matrix, transform
from classy_vision.data.config import AugmentConfig, DataConfig
from classy_vision.data.images import Planes
from classy_vision.data.masks import ClassMasks
from classy_vision.data.preprocessing import Preprocessing, with_statistics

GREY = (124, 116, 104)


def make_image(side: int = 32) -> Image.Image:
    """A gradient with a red square on the left."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[..., 1] = np.linspace(0, 255, side, dtype=np.uint8)[:, None]
    pixels[8:24, 4:12, 0] = 255
    return Image.fromarray(pixels)


def see(augment: dict[str, Any], seed: int = 0, image: Image.Image | None = None) -> Image.Image:
    data = with_statistics(DataConfig.parse({"image_size": 32, "augment": augment}, "data"), 3)
    seen = Preprocessing(data).read(image or make_image(), 3, Random(seed))[0]
    assert isinstance(seen, Image.Image)
    return seen


def differ(a: Image.Image, b: Image.Image) -> bool:
    return not np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(
    "augment",
    [
        {"flip": 1.0},
        {"crop": [0.3, 0.6]},
        {"rotate": 30},
        {"shift": 0.3},
        {"zoom": 0.5},
        {"shear": 20},
        {"policy": "randaugment", "operations": 4},
        {"policy": "trivialaugment"},
        {"brightness": 0.5},
        {"contrast": 0.5},
        {"saturation": 0.5},
        {"hue": 0.3},
        {"grey": 1.0},
        {"blur": 1.0},
        {"erase": 1.0},
    ],
    ids=lambda augment: ", ".join(augment),
)
def test_every_option_changes_images_by_the_seed(augment: dict[str, Any]) -> None:
    changed = [see(augment, seed) for seed in range(6)]
    assert any(differ(image, make_image()) for image in changed)
    assert all(image.size == (32, 32) and image.mode == "RGB" for image in changed)
    assert not any(differ(image, see(augment, seed)) for seed, image in enumerate(changed))
    if augment not in ({"flip": 1.0}, {"grey": 1.0}):
        assert any(differ(changed[0], other) for other in changed[1:])


def test_the_short_words_draw_what_they_drew() -> None:
    """Runs that are resumed see the same images."""
    for word, augment in (("flip", {"flip": 0.5}), ("crop", {"flip": 0.5, "crop": [0.35, 1.0]})):
        for seed in range(4):
            assert not differ(see(augment, seed), see(word, seed))  # type: ignore[arg-type]  # the word


def test_a_rotation_by_hand() -> None:
    matrix = next(
        matrix
        for seed in range(99)
        if (matrix := draw_matrix(AugmentConfig(rotate=180), 32, Random(seed))) and abs(matrix[1]) > 0.7
    )
    a, b, c, d, e, f = matrix
    assert a == pytest.approx(e)
    assert b == pytest.approx(-d)
    assert a * a + b * b == pytest.approx(1)
    assert (a * 16 + b * 16 + c, d * 16 + e * 16 + f) == pytest.approx((16, 16))


def test_a_shift_shows_the_mean_beyond_the_edge() -> None:
    image = transform(make_image(), (1, 0, 8, 0, 1, 0), Image.Resampling.BILINEAR, GREY)
    pixels = np.asarray(image)
    assert (pixels[:, 24:] == GREY).all()
    assert np.array_equal(pixels[:, :24], np.asarray(make_image())[:, 8:])


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_operations_of_policies(name: str, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(60, 200, (32, 32, 3), np.uint8)
    operation, image = OPERATIONS[name], Image.fromarray(pixels).convert(mode)
    fill = GREY if mode == "RGB" else GREY[:1]
    weak, strong = (np.asarray(operation.make(s, 32, fill)(image)).astype(int) for s in (0.1, 1.0))
    assert weak.shape == strong.shape == np.asarray(image).shape
    changed = [np.abs(pixels - np.asarray(image)).mean() for pixels in (weak, strong)]
    if name not in ("identity", "auto_contrast", "equalize", "shift_x", "shift_y"):
        assert changed[0] <= changed[1]
    assert (changed[1] > 0) == (name != "identity" and (name, mode) != ("saturation", "L"))


def test_frames_of_a_clip_are_changed_alike() -> None:
    augment = AugmentConfig(policy="randaugment", brightness=0.4, blur=0.5)
    changes = draw_changes(augment, 32, GREY, Random(3))
    assert len(changes) >= 3
    first, second = make_image(), make_image()
    for change in changes:
        first, second = change(first), change(second)
    assert not differ(first, second)


def test_masks_are_moved_with_their_images() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[8:20, 6:14] = 255
    mask = (pixels[..., 0] > 0).astype(np.uint8)
    augment = {"rotate": 90, "shift": 0.2, "zoom": 0.3, "shear": 10, "flip": 0.5, "brightness": 0.1}
    data = DataConfig.parse({"image_size": 32, "augment": augment, "mean": [0.0] * 3, "std": [1.0] * 3}, "data")
    labels, moved = ClassMasks([], ["no", "yes"], 255), 0
    for seed in range(8):
        seen = Preprocessing(data).read_seen(Image.fromarray(pixels), 3, Random(seed))
        found = labels.see(mask, seen.views[0])
        bright = np.asarray(seen.pictures[0])[..., 0] > 110
        assert ((found == 1) == bright).mean() > 0.97
        moved += not np.array_equal(found, mask)
        assert set(np.unique(found)) <= {0, 1, 255}
    assert moved > 4


def test_many_channels_are_moved_and_erased() -> None:
    planes = Planes.of(np.random.default_rng(0).random((32, 32, 5), np.float32))
    data = DataConfig.parse({"image_size": 32, "augment": {"rotate": 40, "erase": 1.0}}, "data")
    view = Preprocessing(with_statistics(data, 5)).views((32, 32), Random(1))[0]
    seen = view.of(planes)
    assert isinstance(seen, Planes)
    left, top, right, bottom = view.hole or (0, 0, 0, 0)
    assert (seen.numpy()[top:bottom, left:right] == 0.5).all()
    assert not np.array_equal(seen.numpy(), planes.numpy())


def test_an_erased_image_in_memory_stays_whole() -> None:
    image = make_image()
    see({"erase": 1.0}, 1, image)
    assert not differ(image, make_image())


def test_holes_are_within_the_image() -> None:
    for seed in range(200):
        hole = draw_hole(1.0, 16, Random(seed))
        assert hole is not None
        left, top, right, bottom = hole
        assert 0 <= left < right <= 16
        assert 0 <= top < bottom <= 16
    assert draw_hole(0.0, 16, Random(0)) is None


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ("flipp", "augment = 'flipp'"),
        ({"flp": 1}, "data.augment: unknown key 'flp'; did you mean 'flip'"),
        ({"crop": [0.9, 0.1]}, r"crop = \[0.9, 0.1\]: give \[smallest, largest\]"),
        ({"rotate": 270}, "rotate = 270"),
        ({"policy": "autoaugment"}, "'randaugment' or 'trivialaugment'"),
        ({"magnitude": 30}, "magnitude = 30"),
    ],
)
def test_wrong_options(augment: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig.parse({"augment": augment}, "data")
    with pytest.raises(ConfigError, match="8 bits"):
        DataConfig.parse({"augment": {"hue": 0.1}, "value_range": "auto"}, "data")
