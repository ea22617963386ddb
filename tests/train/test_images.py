"""Image files come out upright, in 8 bits, on white."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classy_vision.train.images import ImageError, open_image


def half(size: tuple[int, int] = (4, 2)) -> Image.Image:
    """Black on the left, white on the right."""
    image = Image.new("L", size)
    image.paste(255, (size[0] // 2, 0, *size))
    return image


def test_a_turned_photograph_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    half().save(tmp_path / "a.png", exif=exif)
    pixels = np.asarray(open_image(tmp_path / "a.png", 1))
    assert pixels.tolist() == [[0, 0], [0, 0], [255, 255], [255, 255]]


def test_16_bits_keep_their_scale(tmp_path: Path) -> None:
    deep = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png", 1)).tolist() == [[0, 1, 128, 255]]
    assert np.asarray(open_image(tmp_path / "a.png", 3)).tolist() == [[[v] * 3 for v in (0, 1, 128, 255)]]


def test_what_is_see_through_shows_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png", 3)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_a_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    assert np.asarray(open_image(tmp_path / "a.png", 3)).tolist() == [[[0, 0, 255], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_mode_becomes_the_models(mode: str, channels: int, tmp_path: Path) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    half((16, 16)).convert("RGB").convert(mode).save(tmp_path / f"a.{suffix}")
    image = open_image(tmp_path / f"a.{suffix}", channels)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    assert np.asarray(image)[:, 0].max() < 20
    assert np.asarray(image)[:, -1].min() > 235


def broken(path: Path) -> None:
    half((64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_text("text"), "not an image"),
        (lambda path: path.mkdir(), "directory"),
        (broken, "truncated"),
        (lambda path: Image.new("F", (2, 2)).save(path, format="TIFF"), "floating-point"),
    ],
)
def test_unreadable_files_are_named(make: object, message: str, tmp_path: Path) -> None:
    make(tmp_path / "a.png")  # type: ignore[operator]
    with pytest.raises(ImageError, match=r"a\.png: .*" + message):
        open_image(tmp_path / "a.png", 3)
