"""The frame that is shown at a time is the one that comes; what is no video is named."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from classy_vision.data import videos
from classy_vision.data.videos import Video, VideoError, read_video
from tests.data.videos import number, numbered, write_video

KINDS: dict[str, dict[str, Any]] = {  # with b-frames, a picture is coded before those shown ahead of it
    "a.mp4": {"b_frames": 2},
    "fragments.mp4": {"b_frames": 2, "options": {"movflags": "frag_keyframe+empty_moov"}},
    "a.avi": {"b_frames": 2},
    "a.mkv": {"b_frames": 2, "rate": 30},
    "a.ts": {"b_frames": 2, "codec": "mpeg2video", "rate": 25},
    "a.wmv": {"codec": "wmv2"},
    "a.flv": {"codec": "flv1"},
    "a.webm": {"codec": "libvpx-vp9", "rate": 30},
    "live.webm": {"codec": "libvpx-vp9", "options": {"live": "1"}},  # its header has no duration
}


def make(root: Path, name: str = "a.mp4", count: int = 40, **options: Any) -> Path:
    return write_video(root / name, numbered(count), **{**KINDS[name], **options})


def seconds(*frames: float, rate: int = 8) -> list[Fraction]:
    """The middle of what is shown of frames."""
    return [(Fraction(frame) + Fraction(1, 2)) / rate for frame in frames]


def numbers(path: Path, times: Sequence[Fraction]) -> list[int]:
    return read_video(path, lambda video: [number(image) for image in video.frames(times)])


# -- times


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("far", [-1, 5])  # always by seeking, or only over some seconds
def test_frame_k_is_frame_k(name: str, far: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(videos, "FAR", far)
    path = make(tmp_path, name)
    rate = KINDS[name].get("rate", 8)
    whole = range(40)
    assert read_video(path, lambda video: video.rate) == rate
    assert numbers(path, seconds(*whole, rate=rate)) == list(whole)
    assert numbers(path, seconds(3, 3, 17, 29, rate=rate)) == [3, 3, 17, 29]
    for k in (0, 11, 12, 13, 28):
        assert numbers(path, seconds(k, rate=rate)) == [k]


def test_program_streams_are_shifted_by_seeking_but_in_order(tmp_path: Path) -> None:
    # libav numbers the frames of one from where it begins to read.
    path = write_video(tmp_path / "a.mpg", numbered(40), codec="mpeg2video", rate=25, b_frames=2)
    assert numbers(path, seconds(*range(40), rate=25)) == list(range(40))
    first, *rest = numbers(path, seconds(28, 29, 30, rate=25))
    assert abs(first - 28) <= 2
    assert rest == [first + 1, first + 2]


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, count=250)
    decoded: list[int] = []
    decode = Video._decode

    def count(self: Video) -> Any:
        for frame in decode(self):
            decoded.append(frame.pts or 0)
            yield frame

    monkeypatch.setattr(Video, "_decode", count)
    assert numbers(path, seconds(125, 245)) == [125, 245]
    assert len(decoded) < 2 + 2 * (12 + 2)  # the first, and for each at most from its keyframe


def test_frames_of_uneven_length_are_shown_as_long_as_they_last(tmp_path: Path) -> None:
    times = [0, 100, 200, 1000, 1100, 2000]  # in milliseconds
    path = write_video(tmp_path / "a.mkv", numbered(6), rate=1000, times=times)
    wanted = [Fraction(ms, 1000) for ms in (0, 99, 100, 600, 999, 1000, 1050, 1999, 2000)]
    assert numbers(path, wanted) == [0, 0, 1, 2, 2, 3, 3, 4, 5]


def test_a_file_that_was_cut_short_counts_as_long_as_it_is(tmp_path: Path) -> None:
    whole = make(tmp_path, options={"movflags": "faststart"})  # the header comes first
    data = whole.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    lengths: list[float] = []

    def read(video: Video) -> list[int]:
        lengths.append(float(video.duration))
        return [number(image) for image in video.frames([video.duration * Fraction(9, 10)])]

    (last,) = read_video(path, read)
    assert lengths[0] == 5 > 3 > lengths[1] > 1
    assert last == int(lengths[1] * 0.9 * 8)


# -- pictures


def turned(path: Path, matrix: Sequence[int]) -> Path:
    """Writes a display matrix into an mp4."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    unit = struct.unpack_from(">i", data, start)[0]
    assert unit == 1 << 16
    a, b, c, d = (value * unit for value in matrix)
    struct.pack_into(">9i", data, start, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def corners() -> np.ndarray[Any, Any]:
    """A tall frame whose corners are red, green, blue and white, clockwise from the top left."""
    pixels = np.zeros((48, 32, 3), np.uint8)
    for place, colour in zip(((0, 0), (0, 16), (24, 16), (24, 0)), np.eye(4, 3, dtype=np.uint8) * 255):
        pixels[place[0] :, place[1] :][:24, :16] = colour if colour.any() else 255
    return pixels


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((1, 0, 0, 1), "rgbw"),
        ((0, 1, -1, 0), "wrgb"),  # a phone held upright: a quarter clockwise
        ((-1, 0, 0, -1), "bwrg"),
        ((0, -1, 1, 0), "gbwr"),
        ((-1, 0, 0, 1), "grwb"),  # mirrored
        ((0, 1, 1, 0), "rwbg"),
    ],
)
def test_turned_videos_are_upright(matrix: tuple[int, ...], corner: str, tmp_path: Path) -> None:
    path = turned(write_video(tmp_path / "a.mp4", [corners()] * 2), matrix)
    image = read_video(path, lambda video: next(video.frames([Fraction(0)])))
    assert image.size == ((32, 48) if matrix[0] else (48, 32))
    right, bottom = image.width - 4, image.height - 4
    names = {(255, 0, 0): "r", (0, 255, 0): "g", (0, 0, 255): "b", (255, 255, 255): "w"}
    found = [np.asarray(image.getpixel(at)) > 128 for at in ((3, 3), (right, 3), (right, bottom), (3, bottom))]
    assert "".join(names[tuple(int(v) * 255 for v in colour)] for colour in found) == corner


def test_pixels_become_square(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(corners(), format="rgb24")))
        container.mux(stream.encode(None))
    image = read_video(tmp_path / "a.mp4", lambda video: next(video.frames([Fraction(0)])))
    assert image.size == (48, 48)


# -- what is no video


def text(path: Path) -> None:
    path.write_text("no video at all")


def picture(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, format="PNG")


def playlist(path: Path) -> None:
    other = make(path.parent, "a.ts")
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile://{other}\n#EXT-X-ENDLIST\n")


def sound(path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def half(path: Path) -> None:
    make(path.parent)  # its header is at its end
    path.write_bytes(path.read_bytes()[:2000])


def no_frame(path: Path) -> None:
    data = make(path.parent, "a.mkv").read_bytes()
    path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75")])  # without its clusters


def damaged(path: Path) -> None:
    data = bytearray(make(path.parent).read_bytes())
    start = data.index(b"mdat") + 200
    data[start : start + 2000] = np.random.default_rng(0).bytes(2000)
    path.write_bytes(data)


def lasting(seconds: float) -> Callable[[Path], None]:
    """Makes a file whose header gives a duration."""

    def make_it(path: Path) -> None:
        data = bytearray(make(path.parent, "a.mkv").read_bytes())
        struct.pack_into(">d", data, data.index(b"\x44\x89\x88") + 3, seconds * 1000)
        path.write_bytes(data)

    return make_it


def wide(path: Path) -> None:
    """A file of a codec that takes the size from the file's header."""
    data = bytearray(make(path.parent, "a.avi", codec="wmv2", b_frames=0).read_bytes())
    struct.pack_into("<2i", data, data.index(b"strf") + 12, 60_000, 60_000)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a directory"),
        (os.mkfifo, "not a file"),
        (lambda path: path.touch(), "the file is empty"),
        (text, "not a video"),
        (picture, "not a video"),
        (playlist, "not a video"),
        (half, "not a video, or damaged"),
        (sound, "there are no pictures in it, only sound"),
        (no_frame, "not a video, or damaged"),
        (damaged, "its data are damaged|damaged .* s in"),
        (lasting(1e12), "it says it lasts 1,000,000,000,000 s; at most a week is read"),
        (wide, "frames of .*; at most 67,108,864 pixels are read"),
        (lasting(-1000), "it says it lasts -1,000 s|not a video"),
    ],
)
def test_unreadable_files_are_named(
    make_it: Callable[[Path], None], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mp4"
    make_it(path)
    opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(VideoError, match=rf"a\.mp4: ({message})") as raised:
        read_video(path, lambda video: list(video.frames([Fraction(n, 8) for n in range(40)])))
    assert "\n" not in str(raised.value)
    if opened:
        assert len(os.listdir("/proc/self/fd")) == opened
    assert capfd.readouterr() == ("", "")


def test_titles_may_be_in_any_encoding(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        container.metadata["title"] = "cafe"
        stream: Any = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(corners(), format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / "a.mp4").read_bytes()
    assert b"cafe" in data
    (tmp_path / "a.mp4").write_bytes(data.replace(b"cafe", "café".encode("latin-1")))
    assert read_video(tmp_path / "a.mp4", lambda video: video.size) == (32, 48)


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a.ts", "a.webm"])
def test_whatever_is_wrong_with_a_file_is_one_kind_of_error(name: str, tmp_path: Path) -> None:
    rng, whole = Random(name), make(tmp_path, name).read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 5, 50))):
            data[rng.randrange(len(data))] = rng.choice((0, 127, 128, 255, rng.randrange(256)))
        (tmp_path / name).write_bytes(data[: rng.randrange(len(data)) if rng.random() < 0.3 else None])
        with suppress(VideoError):
            read_video(tmp_path / name, lambda video: list(video.frames([video.duration * Fraction(4, 5)])))


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path)
    monkeypatch.setattr(videos, "MAX_PIXELS", 32 * 32 - 1)
    monkeypatch.setattr(Video, "_decode", lambda self: pytest.fail("decoded"))
    with pytest.raises(VideoError, match="frames of .*; at most 1,023 pixels are read"):
        numbers(path, seconds(0))


def test_memory_does_not_grow_with_the_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One keyframe: all before the last frame has to be decoded. Held, it would be 138 MB.
    frame = np.zeros((480, 640, 3), np.uint8)
    path = write_video(tmp_path / "a.mp4", (frame for _ in range(300)), keyframes=300)
    used: list[int] = []
    decode = Video._decode

    def watch(self: Video) -> Any:
        for frame in decode(self):
            used.append(psutil.Process().memory_info().rss)
            yield frame

    monkeypatch.setattr(Video, "_decode", watch)
    assert read_video(path, lambda video: sum(1 for _ in video.frames(seconds(0, 2, 299)))) == 3
    assert len(used) >= 300
    assert max(used) - used[10] < 20 * 2**20
