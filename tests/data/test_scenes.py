"""Scenes of digits: the same for a seed, whose labels agree with each other and whose splits share nothing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from classy_vision.config import ConfigError
from classy_vision.data.config import ScenesConfig
from classy_vision.data.scenes import CLASSES, TRAINED_ON, Scenes
from classy_vision.data.sources import Records, load_records


@pytest.fixture(scope="module")
def records() -> Records:
    return load_records(ScenesConfig(source="scenes", scenes=40))


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes(40, 64, 0)


def test_labels_of_a_scene_agree(records: Records) -> None:
    assert len(records.images) == 40
    assert records.rows(held_out=True) == list(range(32, 40))
    assert records.classes == {"mask": CLASSES}
    columns = records.columns
    for row in range(40):
        mask, distance = columns["mask"][row](), columns["distance"][row]()
        image = records.images[row]
        assert image.mode == "RGB"
        assert image.size == mask.shape == distance.shape == (64, 64)
        assert 1 <= columns["count"][row] <= 6
        there = {CLASSES[code] for code in np.unique(mask).tolist() if code}
        assert there == set(columns["digits"][row])
        assert ((distance == 0) == (mask > 0)).all()
    assert set(columns["count"]) == {1, 2, 3, 4, 5, 6}


def test_distances_are_to_the_nearest_digit(scenes: Scenes) -> None:
    scene = scenes.draw(3)
    inside = np.argwhere(scene.mask)
    for y, x in ((0, 0), (63, 20), (31, 31)):
        nearest = np.sqrt(((inside - [y, x]) ** 2).sum(1)).min()
        assert scene.distance[y, x] == pytest.approx(nearest, rel=1e-6)


def test_scenes_depend_on_the_seed_and_the_row_alone(scenes: Scenes) -> None:
    others = pickle.loads(pickle.dumps(Scenes(40, 64, 0)))
    for row in (39, 3):  # in any order
        assert np.array_equal(others.image(row), scenes.image(row))
        assert np.array_equal(others.mask(row), scenes.mask(row))
    assert not np.array_equal(Scenes(40, 64, 1).image(3), scenes.image(3))
    assert others.image(3) is others.image(3)  # kept


def test_what_is_held_out_is_in_no_scene_to_train_on() -> None:
    scenes = Scenes(1000, 64, 0)
    used = {
        out: {d.scan for row in range(1000) if scenes.is_held_out(row) == out for d in scenes.place(row)}
        for out in (False, True)
    }
    assert min(map(len, used.values())) > 200
    assert not used[False] & used[True]


def test_parts_of_photographs_are_of_one_side(scenes: Scenes) -> None:
    """Photographs that are black to the left and white to the right are cropped to one colour."""
    from PIL import Image

    width, height = scenes._photographs[0].size
    sides = np.zeros((height, width, 3), np.uint8)
    sides[:, round(TRAINED_ON * width) :] = 255
    other = Scenes(40, 64, 0)
    other._photographs = [Image.fromarray(sides)] * 2
    rng = np.random.default_rng(0)
    for held_out in (False, True):
        for _ in range(50):
            assert np.unique(np.asarray(other._crop(rng, held_out))).tolist() == [255 * held_out]


def test_sizes() -> None:
    assert Scenes(10, 128, 0).image(0).size == (128, 128)
    with pytest.raises(ConfigError, match="scene_size"):
        ScenesConfig.parse({"source": "scenes", "scene_size": 8})
    with pytest.raises(ConfigError, match="the scenes are images"):
        ScenesConfig.parse({"source": "scenes", "clip": {"frames": 8}})
