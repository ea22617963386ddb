"""Answers for each pixel: of images of any size, and in files that are written as they come."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate

from classy_vision.config import ConfigError
from classy_vision.data.config import DataConfig
from classy_vision.data.preprocessing import with_statistics
from classy_vision.export import Head, export
from classy_vision.export.exported_model import load_exported
from classy_vision.models import build_model
from classy_vision.predict import Predictor, write_predictions
from classy_vision.predict.array_predictor import ArrayPredictor, input_of
from classy_vision.predict.windows import find_classes_of_pixels, find_layout
from classy_vision.train.config import TaskConfig
from classy_vision.train.tasks import KINDS
from tests.train.command import SMALL_TRUNK, classy, head
from tests.train.dense import CLASSES, dense, register

PREPROCESSING = {"image_size": 32, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
TASKS = {
    "mask": {"kind": "segmentation", "classes": CLASSES},
    "depth": {"kind": "dense_regression"},
    "left": {"kind": "classification", "classes": CLASSES},
}


@pytest.fixture(autouse=True)
def _head() -> None:
    register()


def model(**config: Any) -> Any:
    register()
    torch.manual_seed(0)
    heads = [
        dense("mask", num_classes=3),
        dense("depth", "block2", num_classes=1),
        head("left", num_classes=3),
    ]
    return build_model(
        {**SMALL_TRUNK, "heads": heads, "tasks": TASKS, "preprocessing": PREPROCESSING, **config}
    ).eval()


@pytest.fixture
def predictor() -> Predictor:
    return Predictor.of_model(model(), device="cpu")


def photo(path: Path, width: int, height: int, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def pixels(prediction: Any, head: str) -> Any:
    found = prediction[head].pixels
    assert found is not None
    return found


@pytest.mark.parametrize("side", [32, 50, 200])
def test_a_square_image_is_seen_as_in_training(predictor: Predictor, side: int, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", side, side)
    said = predictor(path)
    with torch.no_grad():
        outputs = predictor.model(predictor.preprocess(path))
    for name, kind in (("mask", "codes"), ("depth", "numbers")):
        resized = interpolate(outputs[name], (side, side), mode="bilinear", align_corners=False)[0]
        if kind == "codes":
            assert (pixels(said, name) == resized.argmax(0).numpy()).mean() > 0.999
            assert pixels(said, name).dtype == np.uint8
        else:
            np.testing.assert_allclose(pixels(said, name), resized[0].numpy(), atol=1e-4)
    assert said["left"].label == CLASSES[int(outputs["left"].argmax())]


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (33, 32), (300, 40)])
def test_heads_of_the_whole_image_see_what_they_always_see(
    predictor: Predictor, size: tuple[int, int], tmp_path: Path
) -> None:
    path = photo(tmp_path / "a.png", *size)
    said = predictor(path)
    assert pixels(said, "mask").shape == pixels(said, "depth").shape == size[::-1]
    whole = Predictor(predictor.model, predictor.data, {"left": predictor.tasks["left"]}, predictor.device)
    assert dict(said["left"].scores) == pytest.approx(dict(whole(path)["left"].scores), abs=1e-5)
    assert sum(part for _, part in said["mask"].parts) == pytest.approx(1)
    assert {label for label, _ in said["mask"].parts} == {
        CLASSES[code] for code in np.unique(pixels(said, "mask"))
    }
    numbers = dict(said["depth"].parts)
    assert numbers["min"] <= numbers["mean"] <= numbers["max"]


class Means:
    """A model of the means of squares, so that windows of an image say what the whole image does."""

    input_shape = (3, 64, 64)

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(images.shape))
        return avg_pool2d(images, self.stride)


def of_means(stride: int, **data: Any) -> tuple[Predictor, Means]:
    network = Means(stride)
    seen = with_statistics(DataConfig(image_size=64, **data), 3)
    task = KINDS["segmentation"]("mask", TaskConfig(kind="segmentation", classes=tuple(CLASSES)))
    return Predictor(network, seen, {"mask": task}, torch.device("cpu")), network


@pytest.mark.parametrize("stride", [1, 4, 8])
@pytest.mark.parametrize("size", [(64, 64), (200, 70), (70, 200), (640, 64)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_windows_are_put_together_where_they_were(
    stride: int, size: tuple[int, int], overlap: float, tmp_path: Path
) -> None:
    predictor, network = of_means(stride, resize=96)
    path = photo(tmp_path / "a.png", *size)
    (output,) = predictor.outputs(path, overlap=overlap)
    assert all(shape[2:] == (64, 64) for shape in network.seen)
    (whole,) = predictor.outputs(path, window="whole")
    assert network.seen[-1][0] == 1
    np.testing.assert_allclose(output.outputs["mask"], whole.outputs["mask"], atol=1e-5)


def test_more_windows_than_a_batch(tmp_path: Path) -> None:
    predictor, network = of_means(4)
    files = [photo(tmp_path / f"{n}.png", 300, 64, n) for n in range(3)]
    found = list(predictor.outputs(files, batch_size=4))
    assert max(shape[0] for shape in network.seen) == 4
    alone = [next(iter(predictor.outputs(file))) for file in files]
    for one, other in zip(found, alone):
        np.testing.assert_array_equal(one.outputs["mask"], other.outputs["mask"])


def test_an_image_that_is_too_long_is_refused(tmp_path: Path) -> None:
    predictor, _ = of_means(4)
    Image.new("RGB", (60_000, 1)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match="60000x1 pixels become 3840000x64, which are too many to predict"):
        predictor(tmp_path / "a.png")
    (said,) = predictor.predict([tmp_path / "a.png"])
    assert said.error


def test_a_large_image_is_answered_stripe_by_stripe() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 40, 30)).astype(np.float32)
    resized = interpolate(torch.from_numpy(logits)[None], (700, 90), mode="bilinear", align_corners=False)
    found = find_classes_of_pixels(logits, (90, 700))
    assert (found == resized[0].argmax(0).numpy()).mean() > 0.999


@pytest.mark.parametrize("size", [(518, 700), (100, 100), (30, 500)])
def test_windows_cover_an_image(size: tuple[int, int]) -> None:
    layout = find_layout(size, DataConfig(image_size=98, resize=120), "slide", 0.25)
    seen = np.zeros(layout.scaled[::-1], int)
    for left, top in layout.places:
        seen[top : top + 98, left : left + 98] += 1
        assert left % layout.unit == top % layout.unit == 0
    assert seen.min() >= 1
    assert seen.sum() == len(layout.places) * 98 * 98


def test_windows_of_a_kind_that_does_not_exist(predictor: Predictor, tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 90, 40)
    with pytest.raises(ConfigError, match="window = 'slid'"):
        list(predictor.predict(path, window="slid"))  # type: ignore[arg-type]  # on purpose
    with pytest.raises(
        ConfigError, match="'whole' is for models without heads that answer for the whole image"
    ):
        list(predictor.predict(path, window="whole"))


def test_errors_do_not_wait_for_an_image_that_can_be_read() -> None:
    predictor, _ = of_means(4)
    taken = 0

    def damaged() -> Iterator[bytes]:
        nonlocal taken
        for _ in range(50):
            taken += 1
            yield b"damaged"

    found = predictor.outputs(damaged(), workers=1)
    assert next(found).error
    assert taken <= 4
    assert len(list(found)) == 49


# -- files


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Images of several sizes, in a folder and one in it."""
    for n in range(6):
        photo(tmp_path / "album" / ("deep" if n % 2 else "") / f"{n}.png", 40 + 10 * n, 40, n)
    return tmp_path / "album"


def test_masks_and_maps_are_written(predictor: Predictor, album: Path, tmp_path: Path) -> None:
    done = list(write_predictions(predictor, album, tmp_path / "out"))
    assert len(done) == 6
    plain = {one.image: one for one in predictor.predict(album)}
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == list(plain)
    for one in done:
        mask = tmp_path / "out" / "mask" / Path(one.image).relative_to(album)
        assert one["mask"].file == str(mask)
        assert one["mask"].pixels is None
        assert one["left"].label == plain[one.image]["left"].label
        with Image.open(mask) as image:
            assert image.mode == "P"
            assert image.getpalette()[3:6] == [128, 0, 0]
            np.testing.assert_array_equal(np.asarray(image), pixels(plain[one.image], "mask"))
        with Image.open(
            (tmp_path / "out" / "depth" / mask.relative_to(tmp_path / "out" / "mask")).with_suffix(".tif")
        ) as image:
            assert image.mode == "F"
            np.testing.assert_array_equal(np.asarray(image), pixels(plain[one.image], "depth"))
    assert lines[0]["files"] == {"mask": "mask/0.png", "depth": "depth/0.tif"}
    assert lines[0]["predictions"]["mask"]["pixels"].keys() <= set(CLASSES)
    assert not list((tmp_path / "out").rglob("*.part"))


def test_what_was_stopped_goes_on(predictor: Predictor, album: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    begun = write_predictions(predictor, album, out, batch_size=1)
    first = [next(begun), next(begun)]
    begun.close()
    (out / "mask" / ".2.png.1.part").write_bytes(b"half")  # as a process leaves it that is killed
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"image": "half')
    before = (out / "mask" / "0.png").stat().st_mtime_ns
    rest = list(write_predictions(predictor, album, out))
    assert {one.image for one in first}.isdisjoint(one.image for one in rest)
    assert len(first) + len(rest) == 6
    assert (out / "mask" / "0.png").stat().st_mtime_ns == before
    assert not list(out.rglob("*.part"))
    assert len((out / "predictions.jsonl").read_text().splitlines()) == 6
    assert list(write_predictions(predictor, album, out)) == []
    (out / "mask" / "0.png").unlink()
    assert [Path(one.image).name for one in write_predictions(predictor, album, out)] == ["0.png"]


def test_a_file_that_cannot_be_read_is_tried_again(predictor: Predictor, album: Path, tmp_path: Path) -> None:
    (album / "0.png").write_bytes(b"no image")
    done = list(write_predictions(predictor, album, tmp_path / "out"))
    assert [bool(one.error) for one in done] == [True, False, False, False, False, False]
    photo(album / "0.png", 40, 40)
    (again,) = write_predictions(predictor, album, tmp_path / "out")
    assert again["mask"].file


def test_an_image_that_is_named_twice_is_predicted_once(
    predictor: Predictor, album: Path, tmp_path: Path
) -> None:
    again: list[str | Path] = [album, album / "deep", str(album / "0.png")]
    assert len(list(write_predictions(predictor, again, tmp_path / "out", batch_size=1))) == 6
    assert list(write_predictions(predictor, again, tmp_path / "out")) == []


def test_folders_that_cannot_be_written(predictor: Predictor, album: Path, tmp_path: Path) -> None:
    photo(album / "0.bmp", 40, 40)
    with pytest.raises(ConfigError, match=r"0.bmp and .*0.png would both be written to '0'"):
        list(write_predictions(predictor, album, tmp_path / "out"))
    (album / "0.bmp").unlink()
    with pytest.raises(ConfigError, match="holds something else"):
        list(write_predictions(predictor, album, album))
    list(write_predictions(predictor, album, tmp_path / "one", model="a"))
    with pytest.raises(ConfigError, match="holds predictions of another model or of other options"):
        list(write_predictions(predictor, album, tmp_path / "one", model="b"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        list(write_predictions(predictor, album, tmp_path / "file" / "out"))
    whole = Predictor(predictor.model, predictor.data, {"left": predictor.tasks["left"]}, predictor.device)
    with pytest.raises(ConfigError, match="--output is for heads with an answer for each pixel"):
        list(write_predictions(whole, album, tmp_path / "two"))
    assert not (tmp_path / "two").exists()


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """Of masks of a quarter of a megabyte each, only a few are in memory at once, however many there are."""
    predictor, _ = of_means(4)
    path = photo(tmp_path / "a.png", 500, 500)
    image = Image.open(path)
    image.load()

    def peak(count: int) -> int:
        tracemalloc.start()
        for said in predictor.predict((image for _ in range(count)), batch_size=2, workers=1):
            assert said["mask"].pixels is not None
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(4)
    assert peak(24) < peak(8) + 2**20


@pytest.mark.slow
def test_crops_are_refused(album: Path) -> None:
    several = Predictor.of_model(model(preprocessing={**PREPROCESSING, "crops": 3}), device="cpu")
    with pytest.raises(ConfigError, match=r"crops = 3 .* head 'mask' has an answer for each pixel"):
        several(album)


def test_exported_files_give_them_too(predictor: Predictor, album: Path, tmp_path: Path) -> None:
    """On the command line, and without torch's own arithmetic: the same numbers."""
    file = tmp_path / "model.onnx"
    heads = {name: Head(kind=task.config.kind, classes=task.classes) for name, task in predictor.tasks.items()}
    export(model(), file, format="onnx", heads=heads, preprocessing=PREPROCESSING)
    exported = load_exported(file)
    assert exported.metadata.heads["mask"].classes == tuple(CLASSES)
    arrays = ArrayPredictor(exported, input_of(exported))
    for one, other in zip(arrays.predict(album), predictor.predict(album)):
        assert (pixels(one, "mask") == pixels(other, "mask")).mean() > 0.999
        np.testing.assert_allclose(pixels(one, "depth"), pixels(other, "depth"), atol=1e-3)
    done = classy("predict", file, album, "--output", tmp_path / "out", "--format", "csv")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out" / "mask" / "deep" / "1.png") in done.stdout
    assert len(list((tmp_path / "out" / "depth").rglob("*.tif"))) == 6
    again = classy("predict", file, album, "--output", tmp_path / "out", "--format", "jsonl")
    assert (again.returncode, again.stdout) == (0, "")
