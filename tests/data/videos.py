"""Small videos for tests: moving dots, and frames that say which they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import av
import numpy as np
from PIL import Image

BITS = 8
STEPS = {"left": (0, -2), "right": (0, 2), "up": (-2, 0), "down": (2, 0)}
"""Of a dot from frame to frame: down, right."""


def write_video(
    path: Path,
    frames: Iterable[np.ndarray[Any, Any]],
    codec: str = "mpeg4",
    rate: int = 8,
    times: Sequence[int] | None = None,
    b_frames: int = 0,
    keyframes: int = 12,
    options: dict[str, str] | None = None,
) -> Path:
    """Encodes ``frames`` (h, w, 3).

    Args:
        path: its suffix says the format.
        frames: of one size, even.
        codec: in every build of libav there is mpeg4.
        rate: frames per second, or ticks where there are ``times``.
        times: of each frame, in ticks.
        b_frames: at most so many in a row.
        keyframes: from one to the next.
        options: of the format.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.pix_fmt, stream.gop_size = "yuv420p", keyframes
        stream.codec_context.max_b_frames = b_frames
        if codec == "mpeg4":
            stream.codec_context.qmin, stream.codec_context.qmax = 2, 3
        for i, pixels in enumerate(frames):
            if i == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered(count: int, size: tuple[int, int] = (32, 32)) -> Iterable[np.ndarray[Any, Any]]:
    """Frames (h, w, 3) whose number can be read by ``number``."""
    for i in range(count):
        pixels = np.zeros((*size, 3), np.uint8)
        for bit, columns in enumerate(np.array_split(np.arange(size[1]), BITS)):
            pixels[:, columns] = 255 * (i >> bit & 1)
        yield pixels


def number(image: Image.Image | np.ndarray[Any, Any]) -> int:
    """Which of the ``numbered`` frames it is."""
    pixels = np.asarray(image)
    middles = [columns[len(columns) // 2] for columns in np.array_split(np.arange(pixels.shape[1]), BITS)]
    return sum(int(pixels[:, column].mean() > 128) << bit for bit, column in enumerate(middles))


def moving(direction: str, count: int, rng: Random, size: int = 32) -> Iterable[np.ndarray[Any, Any]]:
    """A dot on a torus, so that no frame alone tells where it goes."""
    down, right = STEPS[direction]
    top, left = rng.randrange(size), rng.randrange(size)
    bright, dark = rng.randrange(160, 256), rng.randrange(0, 96)
    dot = np.zeros((size, size), bool)
    dot[:8, :8] = True
    for i in range(count):
        shown = np.roll(dot, (top + i * down, left + i * right), (0, 1))
        yield np.where(shown[..., None], bright, dark).astype(np.uint8).repeat(3, 2)


def make_videos(root: Path, train: int, val: int, frames: int = 24, seed: int = 0) -> Path:
    """``root/train/<direction>/*.mp4`` and ``root/val/...``, so many of each direction."""
    rng = Random(seed)
    for split, count in (("train", train), ("val", val)):
        for direction in STEPS:
            folder = root / split / direction
            folder.mkdir(parents=True)
            for i in range(count):
                write_video(folder / f"{i}.mp4", moving(direction, frames, rng))
    return root
