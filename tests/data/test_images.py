"""Image files come out upright, in 8 bits, on white."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.data.config import DataConfig
from classy_vision.data.images import ImageError, Planes, check_images, count_channels, open_image


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
        (lambda path: Image.new("RGB", (9, 9)).save(path, format="EPS"), "format that is read"),
        (lambda path: Image.new("RGB", (9, 9)).save(path, format="TGA"), "format that is read"),
        (lambda path: path.mkdir(), "directory"),
        (broken, "truncated"),
        (lambda path: Image.new("F", (2, 2)).save(path, format="TIFF"), "floating-point"),
    ],
)
def test_unreadable_files_are_named(make: object, message: str, tmp_path: Path) -> None:
    make(tmp_path / "a.png")  # type: ignore[operator]
    with pytest.raises(ImageError, match=r"a\.png: .*" + message):
        open_image(tmp_path / "a.png", 3)


def test_large_images_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half((40, 30)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png: 40x30 pixels; at most 1,000 are read, .*data\.max_pixels"):
        open_image(tmp_path / "a.png", 3, max_pixels=1000)
    np.save(tmp_path / "a.npy", np.zeros((30, 40), np.uint8))
    with pytest.raises(ImageError, match="40x30 pixels"):
        open_image(tmp_path / "a.npy", 3, max_pixels=1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # ours holds in its place, and only while we read
    assert open_image(tmp_path / "a.png", 3, max_pixels=1200).size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_an_image_that_needs_no_change_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half((16, 16)).convert("RGB").save(tmp_path / "a.jpg")

    def copy(image: Image.Image) -> Image.Image:
        raise AssertionError("copied")

    monkeypatch.setattr(Image.Image, "copy", copy)
    assert open_image(tmp_path / "a.jpg", 3).size == (16, 16)


DEEP = np.array([[0, 1, 2048, 4095]], dtype=np.uint16)


@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_12_bits_in_16(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    np.save(path, DEEP) if suffix == "npy" else Image.fromarray(DEEP).save(path)
    for channels in (1, 3):
        seen = open_image(path, channels, value_range=(0, 4095))
        assert isinstance(seen, Planes)
        np.testing.assert_allclose(seen.numpy(), np.repeat(DEEP[..., None] / 4095, channels, 2), rtol=1e-6)
    cut = open_image(path, 1, value_range=(1, 2048))
    np.testing.assert_allclose(cut.numpy()[0, :, 0], [0, 0, 1, 1])
    stretched = open_image(path, 1, value_range="auto")
    np.testing.assert_allclose(stretched.numpy()[0, :, 0], DEEP[0] / 4095, rtol=1e-6)


def test_nearly_black_images_are_noticed(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "a.tif")
    files = [tmp_path / "a.tif"] * 3
    with pytest.raises(ConfigError, match=r"no value above 4095.* set data.value_range, such as \[0, 4095\]"):
        check_images(files, 3, DataConfig())
    check_images(files, 3, DataConfig(value_range=(0, 65535)))
    Image.fromarray(DEEP + 1).save(tmp_path / "b.tif")  # 4096 needs a thirteenth bit
    check_images([tmp_path / "a.tif", tmp_path / "b.tif"], 3, DataConfig())


def test_numbers_need_a_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-1000, 0], [1000, 3000]], np.float32)).save(tmp_path / "a.tif")
    seen = open_image(tmp_path / "a.tif", 1, value_range=(-1000, 1000))
    assert seen.numpy()[..., 0].tolist() == [[0, 0.5], [1, 1]]
    np.save(tmp_path / "a.npy", np.array([[0.0, np.nan]]))
    with pytest.raises(ImageError, match="not finite"):
        open_image(tmp_path / "a.npy", 1, value_range=(0, 1))
    np.save(tmp_path / "a.npy", np.array([[0.0, 1.0]]))
    with pytest.raises(ImageError, match="float64, whose range is not known: set data.value_range"):
        open_image(tmp_path / "a.npy", 1)


def test_arrays_of_many_channels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 5), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    assert count_channels(tmp_path / "a.npy") == 5
    seen = open_image(tmp_path / "a.npy", 5)
    assert seen.size == (8, 6)
    np.testing.assert_allclose(seen.numpy(), pixels / 255, rtol=1e-6)
    assert seen.show().mode == "RGB"
    with pytest.raises(ConfigError, match="the image has 5 channels, but the model takes 3"):
        check_images([tmp_path / "a.npy"], 3, DataConfig())
    np.save(tmp_path / "a.npy", pixels[..., :3])  # like any image in colour
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.npy", 3)), pixels[..., :3])


def test_an_image_has_as_many_channels_as_it_has(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 51, 102)).save(tmp_path / "a.png")
    np.testing.assert_allclose(open_image(tmp_path / "a.png", 4).numpy()[0, 0], [1, 0, 0.2, 0.4], rtol=1e-6)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ImageError, match="Python objects"):
        open_image(tmp_path / "a.npy", 3)
    (tmp_path / "a.npy").write_bytes(b"cbuiltins\nprint\n.")
    with pytest.raises(ImageError, match="not an array that numpy saved"):
        open_image(tmp_path / "a.npy", 3)


def test_tiff_files_of_many_channels(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.random.default_rng(0).integers(0, 2**16, (6, 8, 5), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(pixels, 2, 0), photometric="minisblack")  # pages
    tifffile.imwrite(tmp_path / "c.tif", pixels[..., :3], photometric="rgb")
    assert count_channels(tmp_path / "a.tif") == 5
    for name in ("a.tif", "b.tif"):
        np.testing.assert_allclose(open_image(tmp_path / name, 5).numpy(), pixels / 65535, rtol=1e-6)
    deep = open_image(tmp_path / "c.tif", 3, value_range=(0, 65535))
    np.testing.assert_allclose(deep.numpy(), pixels[..., :3] / 65535, rtol=1e-6)
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:40])
    with pytest.raises(ImageError):
        open_image(tmp_path / "a.tif", 5)
