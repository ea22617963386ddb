"""Where the files of embeddings are, and small pictures of them."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from classy_vision.embed import embed, load, thumbnails
from classy_vision.embed.sources import Sample
from classy_vision.embed.thumbnails import SIDE, Files, find_copies, make_thumbnail, make_thumbnails
from tests.embed.collections import write_embeddings
from tests.embed.conftest import write_image
from tests.embed.test_sources import make_tar

Images = Callable[..., Path]


def open_picture(made: bytes | str) -> Image.Image:
    assert isinstance(made, bytes), made
    image = Image.open(io.BytesIO(made))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return image


def stored(model: Path, source: str | Path, output: Path) -> Files:
    embed(model, source, output, blocks=["stem"], device="cpu")
    return Files(load(output))


def test_a_large_photograph_is_upright_and_small(tmp_path: Path) -> None:
    image, exif = Image.new("RGB", (1200, 800), "red"), Image.Exif()
    image.paste("blue", (0, 0, 600, 800))
    exif[0x0112] = 6  # turned by a quarter, clockwise
    image.save(tmp_path / "a.jpg", exif=exif)
    found = open_picture(make_thumbnail(tmp_path / "a.jpg"))
    assert found.size == (85, SIDE)
    red, _, blue = found.getpixel((40, 100))  # type: ignore[misc]  # of three channels
    assert red > 200 > 60 > blue
    assert np.asarray(found)[10, 40, 2] > 200
    assert open_picture(make_thumbnail((tmp_path / "a.jpg").read_bytes())).size == (85, SIDE)


def test_other_kinds_of_images(tmp_path: Path) -> None:
    ramp = np.arange(64, dtype=np.uint16).reshape(8, 8)
    for name, image in (
        ("grey.png", Image.fromarray(ramp.astype(np.uint8))),
        ("deep.png", Image.fromarray(ramp * 1000)),
        ("clear.png", Image.new("RGBA", (8, 8), (0, 0, 0, 0))),
        ("palette.gif", Image.new("P", (8, 8))),
    ):
        image.save(tmp_path / name)
    np.save(tmp_path / "seven.npy", np.random.default_rng(0).random((8, 8, 7), np.float32))
    for file in tmp_path.iterdir():
        assert open_picture(make_thumbnail(file)).size == (8, 8), file


def test_what_cannot_be_shown_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"damaged")
    assert str(make_thumbnail(tmp_path / "a.png")).startswith("not an image")
    assert make_thumbnail(tmp_path / "none.png") == "no such file"
    assert make_thumbnail(None) == "no file"
    assert "image" in str(make_thumbnail(b"damaged"))
    (tmp_path / "a.mp4").write_bytes(b"damaged")
    assert isinstance(make_thumbnail(tmp_path / "a.mp4"), str)


def test_the_middle_of_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    from tests.data.videos import write_video

    frames = [np.full((32, 48, 3), 25 * n, np.uint8) for n in range(9)]
    write_video(tmp_path / "a.mp4", frames)
    found = open_picture(make_thumbnail(tmp_path / "a.mp4"))
    assert found.size == (48, 32)
    assert 80 <= float(np.asarray(found).mean()) <= 120
    monkeypatch.setitem(__import__("sys").modules, "classy_vision.data.videos", None)
    assert make_thumbnail(tmp_path / "a.mp4") == "videos need: pip install 'classy-vision-models[video]'"


@pytest.mark.parametrize("kind", [EOFError, OverflowError, MemoryError, struct.error])
def test_whatever_a_decoder_raises_is_a_reason(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise kind("damaged")

    monkeypatch.setattr(thumbnails, "open_header", fail)
    assert make_thumbnail(b"RIFF") == "damaged"


@pytest.mark.parametrize("word", ["images", "rows.csv"])
def test_relative_paths_are_found_from_elsewhere(
    word: str, model: Path, make_images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_images(4, "data/images")
    (tmp_path / "data" / "rows.csv").write_text("path\nimages/cat/00000.png\nimages/dog/00003.png\n")
    monkeypatch.chdir(tmp_path)
    files = stored(model, f"data/{word}", tmp_path / "features")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert not Path(files.paths[0]).is_absolute()
    assert files.locate(0) == tmp_path / "data/images/cat/00000.png"
    last = tmp_path / "data/images/dog/00003.png"
    assert files.find(str(last)) == files.find("../data/images/dog/00003.png") == len(files.paths) - 1
    assert files.find("00003.png") is None
    assert files.find("") is None


def test_tar_files(model: Path, tmp_path: Path) -> None:
    for n in range(2):
        make_tar(tmp_path / "tars" / f"{n}.tar", 3, 3 * n)
    files = stored(model, tmp_path / "tars", tmp_path / "features")
    made = make_thumbnails(files, [4, 1, 4])
    assert [*made] == [4, 1]
    assert {row: open_picture(picture).size for row, picture in made.items()} == {4: (18, 14), 1: (18, 14)}
    for file in (tmp_path / "tars").iterdir():
        file.unlink()
    assert "tar" in str(make_thumbnails(files, [4])[4])
    assert find_copies(files, [[0, 1]]) == {}


@pytest.mark.parametrize("count", [1, 2])
def test_tar_files_that_have_changed(model: Path, tmp_path: Path, count: int) -> None:
    """Their pictures might be of other images."""
    for n in range(2):
        make_tar(tmp_path / "tars" / f"{n}.tar", 3, 3 * n)
    files = stored(model, tmp_path / "tars", tmp_path / "features")
    (tmp_path / "tars" / "1.tar").unlink()
    if count == 2:
        make_tar(tmp_path / "tars" / "1.tar", 4, 3)
    made = make_thumbnails(files, [0, 4])
    assert all(str(made[row]).endswith("tars' has changed since it was embedded") for row in (0, 4))
    assert find_copies(files, [[0, 4]]) == {}


def test_bytes_are_not_kept_to_find_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Source:
        fingerprint = "0"

        def read(self, shard: int) -> Iterator[Sample]:
            for n in range(20):
                yield Sample(f"{n:05}", bytes([n % 10]) * 2**20)

    monkeypatch.setattr(thumbnails, "open_source", lambda *_: Source())
    source = {"kind": "hugging face", "name": "hf:any", "fingerprint": "0"}
    files = Files(load(write_embeddings(tmp_path / "features", {"x": np.eye(20)}, source=source)))
    tracemalloc.start()
    found = find_copies(files, [[*range(20)]])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == {row: row - 10 for row in range(10, 20)}
    assert most < 5 * 2**20


def test_hugging_face(model: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = {"image": [str(write_image(tmp_path / f"{n}.png", n % 2)) for n in range(3)], "n": [0, 1, 2]}
    features = datasets.Features({"image": datasets.Image(), "n": datasets.Value("int64")})
    datasets.Dataset.from_dict(data, features).save_to_disk(tmp_path / "data")
    files = stored(model, f"hf:{tmp_path / 'data'}", tmp_path / "features")
    assert open_picture(make_thumbnails(files, [2])[2]).size == (18, 14)
    assert find_copies(files, [[0, 1, 2]]) == {2: 0}


def test_a_collection_without_files(tmp_path: Path) -> None:
    folder = write_embeddings(tmp_path / "features", {"x": np.eye(3)}, source={"kind": "of their own"})
    assert make_thumbnails(Files(load(folder)), [0, 2]) == {0: "no file", 2: "no file"}


def test_copies_have_the_same_bytes(tmp_path: Path) -> None:
    contents: Any = [b"ab", b"abc", b"ab", b"cd", b"abc", None, b"ab"]
    paths = [tmp_path / str(n) for n in range(len(contents))]
    for path, content in zip(paths, contents):
        if content is not None:
            path.write_bytes(content)
    folder = write_embeddings(tmp_path / "features", {"x": np.eye(7)}, paths=paths)
    assert find_copies(Files(load(folder)), [[0, 1, 2, 3, 4, 5], [6]]) == {2: 0, 4: 1}
