"""Video files read by time: the frame that is shown at each, upright, and nothing else in memory.

Times are in seconds from the first frame. libav counts in ticks of the stream's time base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from classy_vision.data.images import ImageError, turn_upright

# Only files that hold their pictures themselves: no playlists, which name files or addresses.
FORMATS = ("asf", "avi", "flv", "matroska", "mov", "mpeg", "mpegts", "ogg")
# Titles in any encoding; from 19 on that is so of itself.
LENIENT: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}
MAX_PIXELS = 2**26
"""Of a frame; 8K has half of that."""
MAX_SECONDS = 7 * 24 * 3600
"""Of a file; a header that says more is wrong."""
FAR = 5
"""Seconds that are rather skipped by seeking than decoded, where no index says what seeking gains."""
STEPS_BACK = (0, 2, 20)
"""Seconds before the wanted time to seek to; the next where no keyframe was found before it."""
T = TypeVar("T")


class VideoError(ImageError):
    """A file that holds no readable video, and the reason."""


class EndedEarlyError(VideoError):
    """The pictures end before the header says; ``Video.measure`` finds where."""


def read_video(path: Path, read: Callable[[Video], T]) -> T:
    """What ``read`` makes of a video file, which is open meanwhile.

    Where the pictures end earlier than the header says, it is called once more, with their
    duration: a file that was cut short counts as long as it is.

    Raises:
        VideoError: the file is missing, damaged or no video, or its header says what cannot be.
    """
    try:
        _check_file(path)
        with closing(Video(path)) as video:
            try:
                return read(video)
            except EndedEarlyError:
                video.measure()
                return read(video)
    except av.InvalidDataError:
        raise VideoError(path, "its data are damaged") from None
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be read: {error.strerror or error}") from None


def _check_file(path: Path) -> None:
    if not path.exists():
        raise VideoError(path, "no such file")
    if not path.is_file():
        raise VideoError(path, "a directory" if path.is_dir() else "not a file")
    if not path.stat().st_size:
        raise VideoError(path, "the file is empty")


class Video:
    """An open video file.

    Attributes:
        duration: of the pictures, in seconds.
        rate: frames per second, on average; None where the file does not say.
        size: width and height of the pictures, upright and with square pixels.

    Raises:
        VideoError: it cannot be read.
    """

    _shown: VideoFrame | None
    _next: VideoFrame | None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reformat = VideoReformatter()
        self._measured = False
        self._container = self._open()
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the file back."""
        self._container.close()

    # Opening

    def _open(self) -> InputContainer:
        options = {
            "format_whitelist": ",".join(FORMATS),
            "protocol_whitelist": "file",
            "max_pixels": str(MAX_PIXELS),
        }
        try:  # a whole path cannot be taken for an address
            return av.open(str(self.path.absolute()), options=options, **LENIENT)
        except (av.InvalidDataError, av.ArgumentError, av.error.EOFError):
            raise VideoError(self.path, "not a video, or damaged, or of an unknown format") from None

    def _look(self) -> None:
        """Finds out what the attributes say; decodes one frame for that."""
        self._stream = self._pictures()
        self._tick = _fraction(self._stream.time_base) or Fraction(1, 1000)
        self.rate = _fraction(self._stream.average_rate) or _fraction(self._stream.guessed_rate)
        self._begin()
        if self._shown is None:
            raise VideoError(self.path, "no frame of it can be decoded")
        self._origin = _pts(self._shown)
        self._coded = self._square_size(self._shown)
        self.size = self._image(self._shown).size
        self._find_duration()

    def _pictures(self) -> VideoStream:
        """The stream of pictures, ready to be decoded by this thread alone."""
        moving = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not moving:
            raise VideoError(self.path, "there are no pictures in it, only " + self._others())
        stream = moving[0]
        if stream.codec_context is None:
            raise VideoError(self.path, "nothing here decodes its pictures")
        self._check_pixels(stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        return stream

    def _others(self) -> str:
        kinds = {"audio": "sound", "video": "a cover", "subtitle": "subtitles"}
        return " and ".join({kinds.get(s.type, s.type): 0 for s in self._container.streams}) or "a header"

    def _check_pixels(self, width: int, height: int) -> None:
        if not 0 < width * height <= MAX_PIXELS:
            size = f"{width}x{height} pixels" if width * height else "unknown size"
            raise VideoError(self.path, f"frames of {size}; at most {MAX_PIXELS:,} pixels are read")

    def _find_duration(self) -> None:
        """Takes it from the header; where there is none, from the packets."""
        self.duration = Fraction(self._container.duration or 0, av.time_base)
        if self._stream.duration:
            self.duration = self._stream.duration * self._tick
        if self.duration:
            self._check_duration()
        else:
            self.measure()

    def _check_duration(self) -> None:
        if not 0 < self.duration <= MAX_SECONDS:
            raise VideoError(
                self.path, f"it says it lasts {float(self.duration):,.0f} s; at most a week is read"
            )

    def measure(self) -> None:
        """Finds the duration by going through the packets, without decoding them."""
        self._rewind()
        frame = round(1 / (self.rate * self._tick)) if self.rate else 0
        end = self._origin
        for packet in self._packets():
            start = packet.pts if packet.pts is not None else packet.dts
            if start is not None and not packet.is_corrupt:
                end = max(end, start + (packet.duration or frame))
        self.duration = max((end - self._origin) * self._tick, self._tick)
        self._measured = True
        self._check_duration()
        self._rewind()
        self._begin()

    # Reading

    def frames(self, times: Iterable[Fraction]) -> Iterator[Image.Image]:
        """What is shown at ``times``, in colour.

        Args:
            times: in ascending order.

        Raises:
            EndedEarlyError: there is nothing at a time before ``duration``.
            VideoError: what is needed of the file is damaged.
        """
        for time in times:
            pts = self._origin + int(time / self._tick)
            if self._next is not None and self._gains(_pts(self._next), pts):
                self._seek(pts)
            while self._next is not None and _pts(self._next) <= pts:
                self._shown, self._next = self._next, next(self._decoded, None)
            if self._shown is None or (self._next is None and pts > self._end(self._shown)):
                which = f"{float(time):.1f} s of {float(self.duration):.1f} s"
                raise EndedEarlyError(self.path, f"there are no pictures at {which}")
            yield self._image(self._shown)

    def _begin(self) -> None:
        """Decodes from where the container is; two frames are held, that shown and the next."""
        self._decoded = self._decode()
        self._shown = self._next = next(self._decoded, None)

    def _decode(self) -> Iterator[VideoFrame]:
        for packet in self._packets():
            if not packet.is_corrupt:  # the half of one, at the end of a file that was cut short
                yield from (f for f in packet.decode() if f.pts is not None or f.dts is not None)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        try:
            yield from self._container.demux(self._stream)
        except IndexError:  # PyAV's, at the end of a file in which further streams have begun
            return

    def _gains(self, now: int, pts: int) -> bool:
        """Whether seeking saves decoding: there is a keyframe between ``now`` and ``pts``."""
        index = self._stream.index_entries
        key = index.search_timestamp(pts)
        return (key >= 0 and index[key].timestamp > now) or (pts - now) * self._tick > FAR

    def _seek(self, pts: int) -> None:
        """Goes to the keyframe at or before ``pts``; the next frame is None if there may be none."""
        for seconds in STEPS_BACK:
            target = pts - round(seconds / self._tick)
            if target <= self._origin:
                break
            try:
                self._container.seek(target, stream=self._stream)
                self._begin()
            except av.FFmpegError:  # no index, or no frame that stands alone
                break
            if self._next is not None and _pts(self._next) <= pts:
                return
        else:
            if self._next is None and not self._measured:
                return
        self._rewind()
        self._begin()

    def _rewind(self) -> None:
        """Opens the file again: not every format can seek to its start."""
        self._container.close()
        self._container = self._open()
        self._stream = self._pictures()

    def _end(self, frame: VideoFrame) -> int:
        """When ``frame`` is gone, in ticks."""
        length = frame.duration or (round(1 / (self.rate * self._tick)) if self.rate else 1)
        return _pts(frame) + max(length, 1)

    # Pictures

    def _square_size(self, frame: VideoFrame) -> tuple[int, int]:
        """Width and height of a frame as it is coded, but with square pixels."""
        aspect = _fraction(self._stream.sample_aspect_ratio) or Fraction(1)
        width = max(1, round(frame.width * aspect))
        self._check_pixels(width, frame.height)
        return width, frame.height

    def _image(self, frame: VideoFrame) -> Image.Image:
        if frame.is_corrupt:
            raise VideoError(self.path, f"damaged {float((_pts(frame) - self._origin) * self._tick):.2f} s in")
        colour = self._reformat.reformat(frame, *self._coded, format="rgb24", threads=1)
        return Image.fromarray(turn_upright(colour.to_ndarray(), _matrix(frame)))


def _matrix(frame: VideoFrame) -> np.ndarray[Any, Any] | None:
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    return None if found is None else np.frombuffer(bytes(found), np.int32).reshape(3, 3)


def _fraction(ratio: Any) -> Fraction | None:
    """libav's ratio; None where it is 0, not there or divided by 0."""
    return Fraction(ratio.numerator, ratio.denominator) if ratio and ratio.denominator else None


def _pts(frame: VideoFrame) -> int:
    pts = frame.pts if frame.pts is not None else frame.dts
    assert pts is not None
    return pts
