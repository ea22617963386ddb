"""From a file to what the model sees of it: the views of an image, or of the clips of a video.

Axes: v views, c channels, t time, h height, w width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from classy_vision.data.config import MAX_RATE, ClipConfig, DataConfig
from classy_vision.data.images import Picture, Planes, open_image
from classy_vision.data.masks import PixelLabels
from classy_vision.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from classy_vision.data.videos import Video


def read_views(
    source: Path | Image.Image, data: DataConfig, channels: int, rng: Random | None = None
) -> Tensor:
    """What the model sees of a file: (v, c, h, w) of an image, (v, c, t, h, w) of a video.

    Args:
        source: a file, or an image in memory.
        data: which part of it, with ``mean`` and ``std``.
        channels: 1 for grey, 3 for colour.
        rng: draws the clip and the augmentation of training, which make one view; None gives the
            views of evaluation.

    Raises:
        ImageError: the file cannot be read.
    """
    if data.clip is None:
        return torch.from_numpy(Preprocessing(data).read_views(source, channels, rng))
    from classy_vision.data.videos import read_video  # an extra, which images do not need

    places = [rng.random()] if rng else spread_clips(data.clip.clips)
    assert isinstance(source, Path)
    return read_video(source, lambda video: _read_clips(video, places, data, channels, rng))


def read_labelled(
    row: int,
    image: Path | Image.Image,
    data: DataConfig,
    channels: int,
    labels: Mapping[str, PixelLabels],
    rng: Random | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the model sees of an image, and the labels of these pixels by head: (v, c, h, w) and (h, w) each.

    Args:
        row: of the image.
        image, data, channels, rng: as for ``read_views``.
        labels: by head.

    Raises:
        ImageError: the image or its labels cannot be read.
    """
    see = Preprocessing(data)
    seen = see.read_seen(image, channels, rng)
    found = {}
    for head, of in labels.items():
        whole = of.read(row, image, seen.size)
        view = seen.views[0]
        found[head] = torch.from_numpy(of.make_blank(view.side) if whole is None else of.see(whole, view))
    return torch.from_numpy(see.stack(seen.pictures)), found


def make_blank_views(data: DataConfig, channels: int, training: bool) -> Tensor:
    """Zeros in the shape of what ``read_views`` gives."""
    return torch.zeros(1 if training else data.views, *data.input_shape(channels, training))


def read_stills(source: Path | Image.Image, data: DataConfig, channels: int) -> list[Image.Image]:
    """What to show people of a file: the crop of evaluation, that in the centre where there are several.

    Of a video these are the first, the middle and the last frame of the clip in its middle.

    Raises:
        ImageError: the file cannot be read.
    """
    see = Preprocessing(data)
    if data.clip is None:
        views = see.read(source, channels)
        return [_to_pil(views[len(views) // 2])]
    from classy_vision.data.videos import read_video

    def read(video: Video) -> list[Image.Image]:
        assert data.clip is not None
        times = find_times(data.clip, video.duration, find_rate(data.clip, video), place=0.5)
        shown = sorted({0, len(times) // 2, len(times) - 1})
        frames = video.frames(times[i] for i in shown)
        return [_to_pil(see.crop(open_image(frame, channels))) for frame in frames]

    assert isinstance(source, Path)
    return read_video(source, read)


def _to_pil(view: Picture) -> Image.Image:
    return view.show() if isinstance(view, Planes) else view


# -- clips


def spread_clips(count: int) -> list[float]:
    """Where clips are, from 0 at the start of a video to 1 at its end; one is in the middle."""
    return [i / (count - 1) for i in range(count)] if count > 1 else [0.5]


def find_times(clip: ClipConfig, duration: Fraction, rate: Fraction, place: float) -> list[Fraction]:
    """When the frames of a clip are shown, in seconds; see ``ClipConfig``.

    Args:
        clip: how many, and how far apart.
        duration: of the video, in seconds.
        rate: intervals per second.
        place: of the clip, from 0 at the start to 1 at the end.
    """
    intervals = max(1, round(duration * rate))
    room = max(0, intervals - (clip.frames - 1) * clip.stride - 1)
    start = min(room, int(place * (room + 1)))
    steps = (min(start + i * clip.stride, intervals - 1) for i in range(clip.frames))
    return [min((step + Fraction(1, 2)) / rate, duration) for step in steps]


def find_rate(clip: ClipConfig, video: Video) -> Fraction:
    """Intervals per second.

    Raises:
        VideoError: nobody says how many, or the file something that cannot be.
    """
    from classy_vision.data.videos import VideoError

    if clip.fps:
        return Fraction(str(clip.fps))
    if video.rate is None or not 0 < video.rate <= MAX_RATE:
        said = "does not say its frame rate" if video.rate is None else f"says {float(video.rate):g} frames/s"
        raise VideoError(video.path, f"the file {said}; data.clip.fps would say at which to read it")
    return video.rate


def _read_clips(
    video: Video, places: Sequence[float], data: DataConfig, channels: int, rng: Random | None
) -> Tensor:
    """Every clip in every view, clip by clip; each frame is cropped as it comes."""
    assert data.clip is not None
    see, rate = Preprocessing(data), find_rate(data.clip, video)
    views = see.views(video.size, rng)
    slots: dict[Fraction, list[tuple[int, int]]] = defaultdict(list)
    for c, place in enumerate(places):
        for i, time in enumerate(find_times(data.clip, video.duration, rate, place)):
            slots[time].append((c, i))
    clips = torch.empty(len(places), len(views), *data.input_shape(channels, training=rng is not None))
    for time, frame in zip(times := sorted(slots), video.frames(times)):
        for v, view in enumerate(views):
            seen = torch.from_numpy(see.normalize(view.of(open_image(frame, channels))))
            for c, i in slots[time]:
                clips[c, v, :, i] = seen
    return clips.flatten(0, 1)
