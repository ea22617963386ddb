"""Predictors given what people have: files, images in memory, tensors, one or many."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from classy_vision.config import ConfigError
from classy_vision.data.config import DataConfig
from classy_vision.data.images import ImageError
from classy_vision.embed import Settings
from classy_vision.embed.encoder import load_encoder
from classy_vision.export import Head, export
from classy_vision.export.exported_model import load_exported
from classy_vision.models import ClassyModel, build_model
from classy_vision.predict import Predictor
from classy_vision.predict.array_predictor import ArrayPredictor
from classy_vision.predict.inputs import Input, read_input
from classy_vision.trunk.use import SEEN
from tests.train.command import SMALL_TRUNK, head

PREPROCESSING = {"image_size": 8, "resize": 10, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
TASKS = {
    "species": {"kind": "classification", "classes": ["owl", "tit", "jay"]},
    "marks": {"kind": "multilabel", "classes": ["ring", "spot"]},
    "weight": {"kind": "regression"},
}
HEADS = [
    head("species", num_classes=3),
    head("marks", "block1", num_classes=2),
    head("weight", "stem", num_classes=1),
]


def small_model(**config: Any) -> ClassyModel:
    torch.manual_seed(0)
    model = build_model(
        {**SMALL_TRUNK, "heads": HEADS, "tasks": TASKS, "preprocessing": PREPROCESSING, **config}
    )
    return model.eval()


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.of_model(small_model(), device="cpu")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (14, 18, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def forms(photo: Path) -> dict[str, Any]:
    """A photo in every form in which it can be handed over."""
    pixels = np.asarray(Image.open(photo))
    return {
        "a name": str(photo),
        "a path": photo,
        "an image": Image.open(photo),
        "an array": pixels,
        "bytes": photo.read_bytes(),
        "an open file": io.BytesIO(photo.read_bytes()),
        "a tensor": torch.from_numpy(pixels.copy()).permute(2, 0, 1),
    }


def test_all_forms_are_the_same_image(predictor: Predictor, photo: Path) -> None:
    wanted = predictor(photo)
    assert wanted.image == str(photo)
    for form, source in forms(photo).items():
        found = predictor(source)
        assert found.answers == wanted.answers, form
    prepared = predictor.preprocess(photo)
    assert prepared.shape == (1, 3, 8, 8)
    assert predictor(prepared[0]).answers == wanted.answers
    outputs = predictor.model(prepared)
    assert wanted["weight"].value == pytest.approx(outputs["weight"].item(), abs=1e-6)


def test_answers(predictor: Predictor, photo: Path) -> None:
    found = predictor(photo)
    outputs = {h: output[0] for h, output in predictor.model(predictor.preprocess(photo)).items()}
    best = TASKS["species"]["classes"][int(outputs["species"].argmax())]
    assert found["species"].label == best
    assert found["species"].probability == pytest.approx(outputs["species"].softmax(0).max().item(), abs=1e-6)
    assert len(found["species"].scores) == 3
    assert set(found["marks"].labels) == {
        label for label, x in zip(TASKS["marks"]["classes"], outputs["marks"]) if x > 0
    }
    assert isinstance(found["weight"].value, float)
    assert (found["weight"].scores, found["weight"].label) == ((), None)
    assert found.as_dict()["predictions"]["weight"] == {"value": found["weight"].value}
    assert f"species: {best} (" in str(found)
    assert f"<td>{best} (" in found._repr_html_()
    assert len(predictor(photo, top=1)["species"].scores) == 1
    with pytest.raises(ConfigError, match="unknown head 'specie'; did you mean 'species'"):
        found["specie"]
    with pytest.raises(ConfigError, match="there are 3 heads; take one by its name"):
        found.answer  # noqa: B018


def test_three_crops_are_averaged(tmp_path: Path) -> None:
    """By a model, its exported file, and in embeddings: as those of three images that were cut by hand."""
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 24, 3), dtype=np.uint8))
    wide.save(tmp_path / "wide.png")
    parts = [wide.crop((left, 0, left + 8, 8)) for left in (0, 8, 16)]
    seen = {**PREPROCESSING, "resize": None, "crops": 3}
    one = Predictor.of_model(small_model(preprocessing={**seen, "crops": 1}), device="cpu")(parts)
    likely = {
        label: np.mean([dict(p["species"].scores)[label] for p in one]) for label in ("owl", "tit", "jay")
    }
    model = small_model(preprocessing=seen)
    heads = {name: Head(kind=t["kind"], classes=tuple(t.get("classes", ()))) for name, t in TASKS.items()}
    path = tmp_path / "model.safetensors"
    options = {"heads": heads, "preprocessing": seen, "max_batch": 2}
    export(model, path, format="safetensors", example=torch.empty(1, 3, 8, 8, device="meta"), **options)
    for several in (Predictor.of_model(model, device="cpu"), Predictor.load(path)):
        assert several.preprocess(wide).shape == (3, 3, 8, 8)
        found = several(wide)
        assert dict(found["species"].scores) == pytest.approx(likely, abs=1e-5)
        assert found["weight"].value == pytest.approx(np.mean([p["weight"].value for p in one]), abs=1e-5)
    for word in (str(path), model):  # the last one loses its heads
        encoder = load_encoder(word, Settings(heads=("weight",), device="cpu"))
        features = encoder(read_input(Input("wide", tmp_path / "wide.png"), encoder.data, 3)[None])
        assert features["head/weight"].item() == pytest.approx(found["weight"].value, abs=1e-5)
    with pytest.raises(ConfigError, match=r"preprocessing.crops = 3: Predictor.load averages over them"):
        ArrayPredictor(load_exported(path), several.data)


def test_several(predictor: Predictor, photo: Path) -> None:
    many = list(forms(photo).values())
    found = predictor([*many, [photo]])
    assert len(found) == 8
    for one in found:  # in batches, where sums are in another order
        assert one["weight"].value == pytest.approx(predictor(photo)["weight"].value, abs=1e-5)
    pixels = np.asarray(Image.open(photo))
    assert [one.image for one in predictor(np.stack([pixels, pixels]))] == ["image 0", "image 1"]
    assert len(predictor(torch.from_numpy(np.stack([pixels] * 3)).permute(0, 3, 1, 2))) == 3
    assert len(predictor(predictor.preprocess([photo, photo]))) == 2
    assert [one.image for one in predictor(photo.parent)] == [str(photo)]
    assert predictor([]) == []


def test_unreadable_ones(predictor: Predictor, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    bad = [
        (tmp_path / "bad.png", "not an image"),
        (tmp_path / "none.png", "no such file"),
        (b"nothing", "not an image"),
        (np.zeros((4, 4, 3)), "pixels are uint8.* not float64"),
        (np.zeros((3, 4, 5), np.uint8), "c must be 1, 3 or 4"),
        (torch.zeros(4, 4), r"preprocessed ones are floating-point \(3, 8, 8\)"),
        (torch.zeros(1, 8, 8), r"preprocessed ones are floating-point \(3, 8, 8\)"),
    ]
    found = predictor([photo, *(source for source, _ in bad), photo])
    assert [bool(one.error) for one in found] == [False, *[True] * len(bad), False]
    for source, message in bad:
        with pytest.raises(ConfigError, match=message):
            predictor(source)
    for wrong in (3, None, {"image": photo}, [photo, 3]):
        with pytest.raises(ConfigError, match="is not an input: give files, folders"):
            predictor(wrong)


class Broken(io.BytesIO):
    """An open file that fails when it is read."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        raise self.error


@pytest.mark.parametrize("kind", [EOFError, OverflowError, MemoryError, struct.error])
def test_whatever_a_decoder_raises_is_an_error_of_the_image(
    predictor: Predictor, kind: type[Exception]
) -> None:
    (found,) = predictor([Broken(kind())])
    assert found.error == (kind.__name__ if kind is not struct.error else "error")


def test_what_is_missing_for_all_images_is_no_error_of_one(predictor: Predictor) -> None:
    with pytest.raises(ConfigError, match="pip install") as caught:
        predictor([Broken(ConfigError("TIFF needs: pip install 'classy-vision-models[tiff]'"))])
    assert not isinstance(caught.value, ImageError)


def test_images_in_memory_are_seen_as_files_are(predictor: Predictor, tmp_path: Path) -> None:
    deep = Image.fromarray((np.arange(180, dtype=np.uint16) * 300).reshape(12, 15))
    deep.save(tmp_path / "deep.png")
    clear = Image.new("RGBA", (9, 9), (200, 10, 10, 40))
    clear.save(tmp_path / "clear.png")
    turned = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 14, 3), dtype=np.uint8))
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    for path, image in ((tmp_path / "deep.png", deep), (tmp_path / "clear.png", clear)):
        torch.testing.assert_close(predictor.preprocess(image), predictor.preprocess(path))
    with Image.open(tmp_path / "turned.png") as image:
        torch.testing.assert_close(predictor.preprocess(image), predictor.preprocess(tmp_path / "turned.png"))


def test_an_iterator_is_read_a_batch_ahead_and_no_further(predictor: Predictor, photo: Path) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield photo

    found = predictor.predict(endless(), batch_size=2, workers=3)
    for given in range(1, 20):
        assert next(found).image == str(photo)
        assert taken <= given + 2 * 2 + 3
    found.close()


def test_one_predictor_for_every_source(photo: Path, tmp_path: Path) -> None:
    model = small_model()
    wanted = Predictor.of_model(model, device="cpu")(photo)
    model.save_pretrained(tmp_path / "model")
    found = Predictor.load(tmp_path / "model", device="cpu")(photo)
    assert found.answers == wanted.answers
    heads = {name: Head(kind=t["kind"], classes=tuple(t.get("classes", ()))) for name, t in TASKS.items()}
    export(
        model,
        tmp_path / "model.safetensors",
        format="safetensors",
        example=torch.empty(1, 3, 8, 8, device="meta"),
        heads=heads,
        preprocessing=PREPROCESSING,
    )
    found = Predictor.load(tmp_path / "model.safetensors")(photo)
    assert found["species"].label == wanted["species"].label
    assert found["weight"].value == pytest.approx(wanted["weight"].value, abs=1e-5)
    with pytest.raises(ConfigError, match="device = 'gpu' cannot be used"):
        Predictor.load(tmp_path / "model", device="gpu")


def test_models_that_say_nothing_of_themselves(photo: Path) -> None:
    model = build_model({**SMALL_TRUNK, "heads": HEADS[:1]})
    assert {label for label, _ in Predictor.of_model(model).predict(photo).__next__().answer.scores} == {
        "0",
        "1",
        "2",
    }
    with pytest.raises(ConfigError, match="nobody said what the outputs mean.*has 3 heads"):
        Predictor.of_model(build_model({**SMALL_TRUNK, "heads": HEADS}))
    with pytest.raises(ConfigError, match="its preprocessing makes 67,500,000,000 values"):
        Predictor.of_model(small_model(preprocessing={"image_size": 150000}))


def test_all_that_evaluation_sees_is_handed_on() -> None:
    training = {"augment", "crop_area", "on_bad_image", "eval_size"}
    assert set(DataConfig.model_fields) - training <= set(SEEN)
