"""Which part of an image the model sees, in which scale."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.data.config import ClipConfig, DataConfig, DigitsConfig, FolderConfig
from classy_vision.data.images import open_image
from classy_vision.data.preprocessing import (
    Preprocessing,
    draw_box,
    find_size,
    from_published,
    make_centre_box,
    with_statistics,
)
from classy_vision.weights.catalogue import published


def preprocessing(channels: int = 3, **options: object) -> Preprocessing:
    data = DigitsConfig.parse({"source": "digits", "image_size": 4, **options})
    return Preprocessing(with_statistics(data, channels))


def run(see: Preprocessing, image: Image.Image, rng: Random | None = None) -> np.ndarray[Any, Any]:
    return see.normalize(see.crop(image, rng))


def test_the_centre_is_seen() -> None:
    assert make_centre_box((10, 6), 1.0) == (2, 0, 8, 6)
    assert make_centre_box((6, 10), 0.5) == (1.5, 3.5, 4.5, 6.5)


def test_values_are_normalised_by_channel() -> None:
    x = run(preprocessing(mean=[0.0, 0.5, 1.0], std=[1.0, 0.5, 2.0]), Image.new("RGB", (9, 7), (255, 255, 0)))
    assert x.shape == (3, 4, 4)
    np.testing.assert_allclose(x[:, 0, 0], [1.0, 1.0, -0.5])
    assert np.unique(run(preprocessing(channels=1), Image.new("L", (5, 5), 255))).tolist() == [1.0]


def test_resize_leaves_a_margin_out() -> None:
    image = Image.new("L", (8, 8))
    image.paste(255, (2, 2, 6, 6))
    assert np.unique(run(preprocessing(channels=1, resize=8), image)).tolist() == [1.0]
    assert run(preprocessing(channels=1), image).min() < 0


def test_random_boxes_lie_in_the_image_and_have_the_area() -> None:
    rng = Random(0)
    for _ in range(200):
        left, top, right, bottom = draw_box((30, 20), (0.2, 0.6), rng)
        assert 0 <= left < right <= 30
        assert 0 <= top < bottom <= 20
        assert 0.2 <= (right - left) * (bottom - top) / 600 <= 0.6


@pytest.mark.parametrize(("augment", "different"), [("none", 1), ("flip", 2), ("crop", 20)])
def test_augmentation_is_drawn_from_its_generator(augment: str, different: int) -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    see = preprocessing(channels=1, augment=augment)
    seen = {tuple(run(see, image, Random(seed)).flatten().tolist()) for seed in range(20)}
    assert len(seen) == different
    assert np.array_equal(run(see, image, Random(7)), run(see, image, Random(7)))
    assert np.array_equal(run(see, image), run(preprocessing(channels=1), image))


def test_statistics_must_fit_the_channels() -> None:
    with pytest.raises(ConfigError, match="one value for each of the model's 3 channels"):
        preprocessing(mean=[0.5])
    assert preprocessing(channels=4).data.mean == (0.5,) * 4
    with pytest.raises(ConfigError, match="in_channels = 4: videos have 1 channel"):
        with_statistics(FolderConfig(source="folder", root="x", clip=ClipConfig(frames=2)), 4)


def test_evaluation_may_see_a_larger_square() -> None:
    see = preprocessing(eval_size=6, resize=8)
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    assert run(see, image).shape == (3, 6, 6)
    assert run(see, image, Random(0)).shape == (3, 4, 4)
    assert make_centre_box((16, 16), 6 / 8) == see.views(image.size)[0].box


def test_a_pair_squeezes_the_image_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    see = preprocessing(image_size=12, resize=(20, 30))
    seen = np.asarray(see.crop(image), float)
    squeezed = image.resize((30, 20), Image.Resampling.BILINEAR).crop((9, 4, 21, 16))
    assert np.abs(seen - np.asarray(squeezed, float)).max() <= 1
    assert preprocessing(image_size=12, resize=(12, 12)).views((60, 90))[0].box == (0, 0, 60, 90)
    with pytest.raises(ConfigError, match="below image_size = 12"):
        preprocessing(image_size=12, resize=(20, 10))


@pytest.mark.parametrize("transform", ["exact", "torchvision"])
@pytest.mark.parametrize("tall", [False, True])
def test_three_crops_lie_along_the_longer_side(transform: str, tall: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 12), dtype=np.uint8)
    image = Image.fromarray(pixels if tall else pixels.T)
    see = preprocessing(channels=1, resize=6, crops=3, eval_transform=transform)
    found = see.read_views(image, 1)
    assert found.shape == (3, 1, 4, 4)
    halved = image.resize((6, 12) if tall else (12, 6), Image.Resampling.BILINEAR)
    for view, start in zip(found, (0, 4, 8), strict=True):
        box = (1, start, 5, start + 4) if tall else (start, 1, start + 4, 5)
        assert np.abs(view - see.normalize(halved.crop(box))).max() <= 2 / 127
    assert np.array_equal(
        found[1], preprocessing(1, resize=6, eval_transform=transform).read_views(image, 1)[0]
    )
    assert see.read_views(image, 1, Random(0)).shape == (1, 1, 4, 4)


def test_three_crops_of_a_square_are_the_same() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    first, *others = preprocessing(channels=1, crops=3).read_views(Image.fromarray(pixels), 1)
    assert len(others) == 2
    assert all(np.array_equal(first, other) for other in others)


def test_interpolation() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    for name, resampling in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        expected = np.asarray(image.resize((4, 4), resampling))
        assert np.array_equal(np.asarray(preprocessing(interpolation=name).crop(image)), expected)
    usual = image.resize((4, 4), Image.Resampling.BILINEAR)
    assert preprocessing().crop(image).tobytes() == usual.tobytes()


def test_torchvisions_transform_resizes_to_whole_pixels_and_then_crops() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (17, 30, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    see = preprocessing(image_size=6, resize=9, eval_transform="torchvision", interpolation="bicubic")
    expected = image.resize((15, 9), Image.Resampling.BICUBIC).crop((4, 2, 10, 8))  # 4.5 and 1.5 are rounded
    assert np.array_equal(np.asarray(see.crop(image)), np.asarray(expected))
    squeezed = preprocessing(image_size=6, resize=[9, 8], eval_transform="torchvision")
    expected = image.resize((8, 9), Image.Resampling.BILINEAR).crop((1, 2, 7, 8))
    assert np.array_equal(np.asarray(squeezed.crop(image)), np.asarray(expected))
    assert find_size((427, 640), 235) == (235, 352)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"image_size": 224, "resize": 235, "interpolation": "bicubic", "eval_transform": "torchvision"}),
        ({"image_size": 160}, {"image_size": 160, "resize": 167}),
        ({"eval_size": 288}, {"image_size": 224, "resize": 302}),
        ({"resize": 256, "interpolation": "bilinear"}, {"resize": 256, "interpolation": "bilinear"}),
        ({"mean": [0.5, 0.5, 0.5]}, {"mean": (0.5, 0.5, 0.5), "std": (0.229, 0.224, 0.225)}),
    ],
)
def test_published_preprocessing_fills_in_what_the_config_leaves_open(
    given: dict[str, object], expected: dict[str, object]
) -> None:
    data = DataConfig.parse(given)
    taken = from_published(published("timm/resnet50.a1_in1k").preprocessing, data)
    assert not given.keys() & taken.keys()
    seen = {**data.model_dump(), **taken}
    assert {name: seen[name] for name in expected} == expected


def test_published_preprocessing_of_clips() -> None:
    theirs = published("hf-hub:MCG-NJU/videomae-base-finetuned-kinetics").preprocessing
    data = DataConfig.parse(from_published(theirs, DataConfig()))
    assert data.clip == ClipConfig(frames=16, stride=4)
    assert (data.image_size, data.resize, data.eval_transform) == (224, 224, "exact")
    assert "clip" not in from_published(theirs, DataConfig(clip=ClipConfig(frames=8)))


def photograph(path: Path, size: tuple[int, int] = (800, 600), **options: object) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    coarse.resize(size, Image.Resampling.BICUBIC).save(path, quality=90, **options)


@pytest.mark.parametrize("rng", [None, 1, 2])
@pytest.mark.parametrize("turned", [1, 6])
def test_a_reduced_photograph_looks_the_same(rng: int | None, turned: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turned
    photograph(tmp_path / "a.jpg", exif=exif)

    def seen(decode: str) -> np.ndarray:
        see = preprocessing(image_size=32, decode=decode, augment="crop")
        (view,) = see.read(tmp_path / "a.jpg", 3, Random(rng) if rng else None)
        return np.asarray(view, float)

    error = np.abs(seen("full") - seen("reduced"))
    assert 0 < error.max() <= 12
    assert error.mean() < 2  # of colours as wild as these; photographs differ by less than one


def test_what_is_decoded_keeps_twice_the_needed_pixels(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg")
    for spare, width in ((1, 800), (3.9, 800), (4, 400), (8, 200), (15.9, 200), (16, 100), (99, 100)):
        assert open_image(tmp_path / "a.jpg", 3, reduction=lambda size, spare=spare: spare).size[0] == width
    photograph(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", 3, reduction=lambda size: 99).size == (800, 600)


def test_the_peers_transform_decodes_everything_unless_it_is_told() -> None:
    assert DataConfig().reduces
    assert not DataConfig(eval_transform="torchvision").reduces
    assert DataConfig(eval_transform="torchvision", decode="reduced").reduces
    assert not DataConfig(decode="full").reduces
