"""What neighbours find: planted copies, planted wrong labels, outliers, and neighbours of images."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from classy_vision import embed
from classy_vision.config import ConfigError
from classy_vision.embed import Neighbours, neighbours
from tests.embed.collections import write_embeddings
from tests.embed.conftest import write_image
from tests.predict.test_predictor import small_model

Array = np.ndarray[Any, Any]
Images = Callable[..., Path]


def find(folder: Path, **options: Any) -> Neighbours:
    return neighbours(folder, device="cpu", **options)


# -- digits, by their pixels


@pytest.fixture(scope="module")
def digits() -> tuple[Array, Array]:
    found = load_digits()
    return found.data.astype(np.float32), found.target


def test_planted_copies_are_found(digits: tuple[Array, Array], tmp_path: Path) -> None:
    pixels, draw = digits[0], np.random.default_rng(0)
    originals = draw.choice(len(pixels), 40, replace=False)
    planted = 0.9 * pixels[originals] + draw.uniform(-0.25, 0.25, (40, 64)).astype(np.float32)
    folder = write_embeddings(tmp_path / "digits", {"pixels": np.concatenate([pixels, planted])})
    found = find(folder)
    pairs = {(int(row), len(pixels) + n) for n, row in enumerate(originals)}
    joined = {one.rows for one in found.duplicates}
    assert len(pairs & joined) >= 38
    assert len(joined - pairs) <= 2  # of 1,797 digits, which are much alike


def test_planted_wrong_labels_are_found(digits: tuple[Array, Array], tmp_path: Path) -> None:
    pixels, labels = digits
    wrong = np.random.default_rng(0).choice(len(pixels), 40, replace=False)
    given = labels.copy()
    given[wrong] = (given[wrong] + 1) % 10
    found = find(write_embeddings(tmp_path / "digits", {"pixels": pixels}, {"label": given.tolist()}))
    first = found.disagreements[:40]
    assert len({one.row for one in first} & {*wrong.tolist()}) >= 36
    suggested = {one.row: one.suggested for one in found.disagreements}
    assert sum(suggested.get(row) == str(labels[row]) for row in wrong.tolist()) >= 36
    assert [one.share for one in found.disagreements] == sorted(
        (one.share for one in found.disagreements), reverse=True
    )
    clean = find(write_embeddings(tmp_path / "clean", {"pixels": pixels}, {"label": labels.tolist()}))
    assert len(clean.disagreements) < 30


def test_what_is_no_digit_is_an_outlier(digits: tuple[Array, Array], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(0, 16, (5, 64)).astype(np.float32)
    found = find(write_embeddings(tmp_path / "digits", {"pixels": np.concatenate([digits[0], noise])}))
    assert {*found.outliers[:5].tolist()} == {*range(len(digits[0]), len(digits[0]) + 5)}
    assert (np.diff(found.distances[found.outliers]) <= 0).all()


# -- small ones


LINE = np.array([[1.0, x] for x in (0, 0.1, 0.2, 0.3, 5, 5.001, 5.002)], np.float32)


def test_neighbours_and_distances(tmp_path: Path) -> None:
    found = find(write_embeddings(tmp_path / "line", {"xy": LINE}, shard_size=3), k=2)
    assert found.rows.tolist() == [[1, 2], [2, 0], [3, 1], [2, 1], [5, 6], [6, 4], [5, 4]]
    units = LINE.astype(np.float64) / np.linalg.norm(LINE.astype(np.float64), axis=1, keepdims=True)
    wanted = 1 - (units @ units.T)[np.arange(7), found.rows[:, -1]]
    np.testing.assert_allclose(found.distances, wanted, atol=1e-15)
    assert found.outliers[0] == 0
    assert (found.label, found.disagreements, found.queries) == (None, (), ())


def test_groups_are_joined_by_pairs(tmp_path: Path) -> None:
    labels = ["a", "a", None, "b", "c", "c", ""]
    folder = write_embeddings(tmp_path / "line", {"xy": LINE}, {"label": labels})
    found = find(folder, k=3, threshold=0.99)
    assert [one.rows for one in found.duplicates] == [(0, 1, 2, 3), (4, 5, 6)]
    assert [one.labels for one in found.duplicates] == [("a", "b"), ("c",)]
    assert found.duplicates[0].similarity == pytest.approx(np.cos(np.arctan(0.3) - np.arctan(0.2)), abs=0.01)
    assert found.duplicates[0].similarity >= found.threshold == 0.99
    equal = find(folder, k=3, threshold=1.0)  # the last three differ by less than rounding in float16
    assert ([one.rows for one in equal.duplicates], equal.threshold) == ([(4, 5, 6)], 1.0)


def test_the_threshold_of_equal_images(tmp_path: Path) -> None:
    """The cosine of a vector with itself is a little below 1, or above it."""
    features = np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)
    found = find(write_embeddings(tmp_path / "twice", {"x": np.concatenate([features] * 2)}), threshold=1.0)
    assert {one.rows for one in found.duplicates} == {(row, 50 + row) for row in range(50)}


def test_the_threshold_is_of_images_that_are_not_equal(tmp_path: Path) -> None:
    """Also where most images are there twice."""
    draw = np.random.default_rng(0)
    features = draw.standard_normal((60, 16)).astype(np.float32)
    twice = np.concatenate([features, features[:50]])
    once, found = (
        find(write_embeddings(tmp_path / name, {"x": values}), k=5)
        for name, values in (("once", features), ("twice", twice))
    )
    assert once.duplicates == ()
    assert found.threshold == pytest.approx(once.threshold, abs=0.01)
    assert {one.rows for one in found.duplicates} == {(row, 60 + row) for row in range(50)}


def test_images_that_are_all_equal(tmp_path: Path) -> None:
    found = find(write_embeddings(tmp_path / "same", {"x": np.ones((30, 4), np.float32)}), k=4)
    assert [one.rows for one in found.duplicates] == [tuple(range(30))]
    assert found.rows[0].tolist() == [1, 2, 3, 4]
    assert found.rows[20].tolist() == [0, 1, 2, 3]


def test_votes(tmp_path: Path) -> None:
    """Rows without a label do not vote; of equally frequent labels the nearer one is suggested."""
    angles = np.array([0, 0.01, 0.02, 0.03, 0.5, 0.51, 0.53], np.float32)
    features = np.stack([np.cos(angles), np.sin(angles)], 1)
    labels = ["a", "b", None, "c", "d", "d", "e"]
    found = find(write_embeddings(tmp_path / "x", {"x": features}, {"kind": labels}), k=3, label="kind")
    said = {one.row: (one.label, one.suggested, one.share) for one in found.disagreements}
    assert said[0] == ("a", "b", 1.0)
    assert said[6] == ("e", "d", 1.0)
    assert 2 not in said
    assert 4 not in said  # d, c, e and so on: its own label is as frequent as each other one


def test_labels_that_are_numbers(tmp_path: Path) -> None:
    found = find(write_embeddings(tmp_path / "x", {"x": LINE}, {"n": [1, 1, 1, 2, 3, 3, 3]}), k=2, label="n")
    assert [(one.row, one.label, one.suggested) for one in found.disagreements] == [(3, "2", "1")]


def test_numbers_that_are_no_classes_are_not_taken_for_labels(tmp_path: Path) -> None:
    found = find(write_embeddings(tmp_path / "x", {"x": LINE}, {"label": [0.5] * 7}), k=2)
    assert (found.label, found.disagreements) == (None, ())


# -- images that are asked about


def test_images_of_the_folder(model: Path, make_images: Images, tmp_path: Path) -> None:
    images = make_images(8)
    embed.embed(model, images, tmp_path / "features", blocks=["block1"], device="cpu")
    row, file = 5, images / "dog" / "00005.png"
    for word in ("dog/00005.png", str(file), str(file.parent / ".." / "dog" / "00005.png")):
        (query,) = find(tmp_path / "features", of=[word], k=3).queries
        assert (query.name, query.row) == (word, row)
        found = find(tmp_path / "features", k=3)
        assert query.rows == tuple(found.rows[row].tolist())
        assert query.similarities == tuple(found.similarities[row].tolist())


@pytest.mark.parametrize("what", [{"blocks": ["block1"], "pooling": ["max"]}, {"heads": ["species"]}])
def test_an_image_that_is_not_in_the_folder(
    what: dict[str, Any], model: Path, make_images: Images, tmp_path: Path
) -> None:
    images = make_images(8)
    embed.embed(model, images, tmp_path / "features", **what, device="cpu")
    copy = tmp_path / "copy.png"
    copy.write_bytes((images / "cat" / "00002.png").read_bytes())
    other = write_image(tmp_path / "other.png", 77)
    found = find(tmp_path / "features", of=[copy, "dog/00006.png", other], model=model, k=3)
    first, second, third = found.queries
    assert (first.row, second.row, third.row) == (None, 6, None)
    assert first.rows[0] == 2
    assert first.similarities[0] == pytest.approx(1)
    assert second.rows == tuple(found.rows[6].tolist())
    assert len(third.rows) == 3


def test_the_model_must_be_the_same(model: Path, make_images: Images, tmp_path: Path) -> None:
    embed.embed(model, make_images(4), tmp_path / "features", blocks=["block1"], device="cpu")
    small_model(stem_width=16).save_pretrained(tmp_path / "other")
    file = write_image(tmp_path / "a.png", 9)
    with pytest.raises(ConfigError, match=r"a\.png' is not in .*features': --model MODEL embeds it"):
        find(tmp_path / "features", of=[file])
    with pytest.raises(ConfigError, match=r"other' is not the model of .*features': it has another config"):
        find(tmp_path / "features", of=[file], model=tmp_path / "other")
    (tmp_path / "b.png").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"b\.png: not an image"):
        find(tmp_path / "features", of=[tmp_path / "b.png"], model=model)


# -- files with the same bytes


def test_copies_of_files(tmp_path: Path) -> None:
    paths = [write_image(tmp_path / "images" / f"{n}.png", n % 4) for n in range(7)]
    with Image.open(paths[4]) as image:
        image.save(tmp_path / "images" / "4.png", compress_level=0)  # the same pixels
    paths[6].unlink()
    features = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1, 2]]
    found = find(write_embeddings(tmp_path / "features", {"x": features}, paths=paths), k=2)
    assert [(one.rows, dict(one.copies)) for one in found.duplicates] == [
        ((0, 4), {}),
        ((1, 5), {5: 1}),
        ((2, 6), {}),
    ]


# -- what does not fit


def test_what_does_not_fit(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    features = {name: draw.standard_normal(shape) for name, shape in SHAPES.items()}
    columns = {"species": ["owl"] * 6, "weight": [0.5] * 6, "tags": [["a"]] * 6}
    folder = write_embeddings(tmp_path / "features", features, columns)
    bad = features["block1/mean"].copy()
    bad[3, 1] = np.nan
    write_embeddings(tmp_path / "bad", {"x": bad})
    write_embeddings(tmp_path / "maps", {"block1/map": features["block1/map"]})
    write_embeddings(tmp_path / "one", {"x": bad[:1]})
    (tmp_path / "empty").mkdir()
    choose = {"column": "block1/mean"}
    for place, options, said in (
        (tmp_path / "empty", {}, "empty' is not a folder of embeddings: it has no manifest.json"),
        (tmp_path / "none", {}, "none' is not a folder of embeddings"),
        (folder, {}, "has several columns: choose one with --column (columns with vectors: block1/mean, bl"),
        (folder, {"column": "block1/maen"}, "unknown column 'block1/maen'; did you mean 'block1/mean'?"),
        (folder, {"column": "block1/map"}, "column 'block1/map' holds 3×2×2 values for each image, not one"),
        (folder, {"column": "block1/tokens"}, "column 'block1/tokens' holds 4×3 values for each image, not"),
        (tmp_path / "maps", {}, "has no column with one vector for each image (columns with vectors: none;"),
        (folder, {**choose, "label": "specie"}, "unknown column of labels 'specie'; did you mean 'species'?"),
        (folder, {**choose, "label": "weight"}, "column 'weight' does not hold labels"),
        (folder, {**choose, "label": "tags"}, "column 'tags' does not hold labels"),
        (folder, {**choose, "k": 6}, "k = 6: each of 6 rows has 1 to 5 neighbours"),
        (folder, {**choose, "k": 0}, "k = 0: each of 6 rows has 1 to 5 neighbours"),
        (folder, {**choose, "threshold": 1.5}, "threshold = 1.5: a cosine above 0, and at most 1, is needed"),
        (folder, {**choose, "of": ["0000x"]}, "unknown image '0000x'; did you mean '00005'?"),
        (folder, {**choose, "of": ["q.png"]}, "has it as id or path, and there is no such file"),
        (tmp_path / "bad", {}, "column 'x' has values that are not finite, first of '00003'"),
        (tmp_path / "one", {}, "one' is too small for neighbours: rows = 1"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            find(place, **options)
    assert find(folder, **choose).rows.shape == (6, 5)  # all that there are


SHAPES = {"block1/mean": (6, 3), "block2/mean": (6, 4), "block1/map": (6, 3, 2, 2), "block1/tokens": (6, 4, 3)}


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features are then read into memory."""

    def refuse(*_: object) -> None:
        raise ConfigError("cannot write")

    folder = write_embeddings(tmp_path / "line", {"xy": LINE})
    wanted = find(folder, k=2)
    monkeypatch.setattr(embed.Embeddings, "memmap", refuse)
    np.testing.assert_array_equal(find(folder, k=2).rows, wanted.rows)
