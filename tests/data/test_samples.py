"""Which clips the model sees of a video, and which part of their frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from classy_vision.config import ConfigError
from classy_vision.data.config import ClipConfig, DataConfig
from classy_vision.data.preprocessing import with_statistics
from classy_vision.data.samples import find_times, make_blank_views, read_stills, read_views, spread_clips
from classy_vision.data.videos import VideoError
from classy_vision.trunk.use import preprocessing_of
from tests.data.videos import number, numbered, write_video

FRAMES = 40


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Forty frames, 8 per second, that say which they are."""
    return write_video(tmp_path / "a.mp4", numbered(FRAMES))


def data(clip: dict[str, Any] | None, **options: Any) -> DataConfig:
    wanted = {"image_size": 32, "mean": [0.0] * 3, "std": [1.0] * 3, **options, "clip": clip}
    return with_statistics(DataConfig.parse(wanted), 3)


def numbers(views: Tensor) -> list[list[int]]:
    """Which frames are in (v, c, t, h, w)."""
    return [[number(255 * frame.permute(1, 2, 0)) for frame in view.unbind(1)] for view in views]


def steps(clip: ClipConfig, intervals: int, place: float, rate: int = 10) -> list[int]:
    times = find_times(clip, Fraction(intervals, rate), Fraction(rate), place)
    assert all((time * rate - Fraction(1, 2)).denominator == 1 for time in times)
    return [int(time * rate) for time in times]


# -- when


def test_clips_reach_from_the_first_frame_to_the_last() -> None:
    clip = ClipConfig(frames=4, stride=3)
    assert steps(clip, 20, 0.0) == [0, 3, 6, 9]
    assert steps(clip, 20, 1.0) == [10, 13, 16, 19]
    assert steps(clip, 20, 0.5) == [5, 8, 11, 14]
    starts = {steps(clip, 20, Random(seed).random())[0] for seed in range(300)}
    assert starts == set(range(11))


def test_a_short_video_goes_on_with_its_last_frame() -> None:
    assert steps(ClipConfig(frames=6, stride=2), 5, place=0.7) == [0, 2, 4, 4, 4, 4]
    assert find_times(ClipConfig(frames=2), Fraction(1, 100), Fraction(1), 0.5) == [Fraction(1, 100)] * 2


def test_clips_of_evaluation_are_even() -> None:
    assert spread_clips(1) == [0.5]
    assert spread_clips(3) == [0.0, 0.5, 1.0]


def test_the_clock_is_the_files_own_or_the_given_one(video: Path) -> None:
    assert numbers(read_views(video, data({"frames": 4, "stride": 2}), 3)) == [[17, 19, 21, 23]]
    # Four per second: every second frame. Three per second: what is shown in the middle of each.
    assert numbers(read_views(video, data({"frames": 20, "fps": 4.0}), 3)) == [list(range(1, 40, 2))]
    assert numbers(read_views(video, data({"frames": 4, "fps": 3.0, "clips": 2}), 3))[0] == [1, 4, 6, 9]


def test_uneven_frames_are_seen_evenly_in_time(tmp_path: Path) -> None:
    times = [0, 40, 80, 120, 160, 200, 1000, 1500, 2000]  # a quick start, then a slide show
    path = write_video(tmp_path / "a.mkv", numbered(9), rate=1000, times=times)
    wanted = data({"frames": 8, "fps": 4.0, "clips": 2})
    assert numbers(read_views(path, wanted, 3))[0] == [3, 5, 5, 5, 6, 6, 7, 7]


def test_a_clip_of_a_short_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(3))
    assert numbers(read_views(path, data({"frames": 5}), 3)) == [[0, 1, 2, 2, 2]]


def test_a_clip_of_a_file_that_was_cut_short(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", numbered(FRAMES), options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    wanted = data({"frames": 4, "clips": 3})
    first, middle, last = numbers(read_views(tmp_path / "cut.mp4", wanted, 3))
    assert first == [0, 1, 2, 3]
    assert 8 < last[-1] < 30
    assert last == list(range(last[0], last[0] + 4))
    assert middle[0] == (last[0] + 1) // 2
    for seed in range(5):
        (drawn,) = numbers(read_views(tmp_path / "cut.mp4", wanted, 3, Random(seed)))
        assert drawn == list(range(drawn[0], drawn[0] + 4))


def test_a_file_with_an_impossible_rate_needs_one(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(40), rate=8000)
    with pytest.raises(VideoError, match="says 8000 frames/s; data.clip.fps would say at which to read it"):
        read_views(path, data({"frames": 4}), 3)
    assert numbers(read_views(path, data({"frames": 2, "fps": 1000.0, "clips": 2}), 3)) == [[4, 12], [28, 36]]


# -- what


def test_training_draws_one_clip(video: Path) -> None:
    wanted = data({"frames": 4, "clips": 3, "crops": 3})
    drawn = [numbers(read_views(video, wanted, 3, Random(seed))) for seed in range(20)]
    assert all(len(clips) == 1 and clips[0] == list(range(clips[0][0], clips[0][0] + 4)) for clips in drawn)
    assert len({clips[0][0] for clips in drawn}) > 8
    assert drawn[3] == numbers(read_views(video, wanted, 3, Random(3)))


@pytest.mark.parametrize("augment", ["flip", "crop"])
def test_all_frames_of_a_clip_are_augmented_alike(augment: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    path = write_video(tmp_path / "a.mp4", [noise] * 8)
    wanted = data({"frames": 8}, augment=augment)
    seen = [read_views(path, wanted, 3, Random(seed)) for seed in range(8)]
    for views in seen:
        assert (views - views[:, :, :1]).abs().max() < 0.1
    plain = read_views(path, wanted, 3)
    changed = [(views - plain).abs().max() > 0.3 for views in seen]
    assert any(changed)
    assert augment == "crop" or not all(changed)


@pytest.mark.parametrize(("size", "axis"), [((32, 64), 2), ((64, 32), 1)])
def test_three_crops_lie_along_the_longer_side(size: tuple[int, int], axis: int, tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    pixels = np.broadcast_to(ramp[None, :, None] if axis == 2 else ramp[:, None, None], (*size, 3))
    path = write_video(tmp_path / "a.mp4", [np.ascontiguousarray(pixels)] * 4)
    wanted = data({"frames": 2, "clips": 2, "crops": 3}, image_size=16, eval_size=24, resize=32)
    views = read_views(path, wanted, 3)
    assert views.shape == (6, 3, 2, 24, 24)
    means = views.mean((1, 2, 3, 4)).tolist()
    assert means[:3] == pytest.approx([12 / 64, 0.5, 52 / 64], abs=0.03)
    assert means[3:] == pytest.approx(means[:3], abs=0.01)  # clip by clip
    (one,) = read_views(path, data({"frames": 2}, image_size=16, eval_size=24, resize=32), 3)
    torch.testing.assert_close(one, views[1], atol=0.02, rtol=0)
    assert read_views(path, wanted, 3, Random(0)).shape == (1, 3, 2, 16, 16)


def test_crops_stood_in_the_clip_before() -> None:
    before = DataConfig.parse({"clip": {"frames": 4, "clips": 2, "crops": 3}})
    assert before == DataConfig.parse({"clip": {"frames": 4, "clips": 2}, "crops": 3})
    assert before.views == 6
    assert DataConfig.parse(preprocessing_of(before.model_dump(mode="json"))).views == 6
    assert "crops" not in preprocessing_of(DataConfig().model_dump(mode="json"))  # as versions before wrote it
    with pytest.raises(ConfigError, match=r"crops = 1 and clip.crops = 3: leave the second one out"):
        DataConfig.parse({"clip": {"frames": 4, "crops": 3}, "crops": 1})


def test_people_are_shown_one_crop_of_an_image() -> None:
    image = Image.new("RGB", (30, 10))
    image.paste("white", (10, 0, 20, 10))
    (still,) = read_stills(image, data(None, image_size=10, crops=3), 3)
    assert still.getextrema() == ((255, 255),) * 3


def test_zeros_have_the_shape_of_views(video: Path) -> None:
    wanted = data({"frames": 2, "clips": 2, "crops": 3}, image_size=16, eval_size=24)
    assert make_blank_views(wanted, 3, training=False).shape == read_views(video, wanted, 3).shape
    assert make_blank_views(wanted, 3, training=True).shape == read_views(video, wanted, 3, Random(0)).shape


def test_grey_clips_and_the_usual_statistics(video: Path) -> None:
    clip = {"clip": {"frames": 2}, "image_size": 16}
    grey = with_statistics(DataConfig.parse(clip), 1)
    assert (grey.mean, grey.std) == ((0.5,), (0.5,))
    assert read_views(video, grey, 1).shape == (1, 1, 2, 16, 16)
    colour = with_statistics(DataConfig.parse(clip), 3)
    assert (colour.mean, colour.std) == ((0.45,) * 3, (0.225,) * 3)


@pytest.mark.parametrize(("frames", "shown"), [(8, [16, 20, 23]), (2, [19, 20]), (1, [20])])
def test_people_are_shown_the_ends_and_the_middle(frames: int, shown: list[int], video: Path) -> None:
    assert [number(still) for still in read_stills(video, data({"frames": frames}), 3)] == shown
