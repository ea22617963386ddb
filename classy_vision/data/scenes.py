"""Scenes of scanned digits on photographs, which all come with scikit-learn: nothing is downloaded.

A scene is drawn from (seed, row) alone, when it is asked for. The digits and the parts of the photographs that
are in held-out scenes are in no scene to train on. Axes: h height, w width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]
CLASSES = ("background", *map(str, range(10)))
"""Of the masks."""
MOST = 6
"""Digits in a scene."""
SIDES = (0.22, 0.42)
"""The smallest and the largest side of a digit, as a part of the scene's."""
TRIES = 20
"""Places that are tried for a digit before it is left out."""
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
TRAINED_ON = 0.7
"""Part of a photograph's width; a hundredth is left between it and what is held out."""
GAP = 0.01
OPACITY = 0.9
"""Of the digits."""
KEPT = 2**28
"""Bytes of scenes that are kept in memory, so that each is drawn once."""


def load_scans() -> tuple[Array, Array, Array]:
    """The scanned digits (n, 8, 8) from 0 to 255, which digits they are (n,), and which are held out (n,)."""
    # Two seconds of imports that nothing else needs.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    scans = np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    held = train_test_split(range(len(digits)), test_size=0.2, stratify=digits, random_state=0)[1]
    return scans, digits, np.isin(np.arange(len(digits)), held)


class Placed(NamedTuple):
    """A digit in a scene: which scan it is, and where it is, in pixels."""

    scan: int
    left: int
    top: int
    side: int

    def touches(self, other: Placed) -> bool:
        """Whether their squares have a pixel in common."""
        apart = max(
            self.left - other.left - other.side,
            other.left - self.left - self.side,
            self.top - other.top - other.side,
            other.top - self.top - self.side,
        )
        return apart < 0


class Scene(NamedTuple):
    """A scene as it was drawn.

    Attributes:
        image: in colour.
        mask: codes of ``CLASSES``, (h, w).
        distance: to the nearest pixel of a digit, in pixels, (h, w).
    """

    image: Image.Image
    mask: Array
    distance: Array


class Scenes:
    """Scenes by row, first those to train on and then a fifth that is held out.

    Args:
        count: how many there are.
        size: their side in pixels.
        seed: of all of them.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        from sklearn.datasets import load_sample_image

        self.count, self.size, self.seed = count, size, seed
        self.trained_on = count - max(1, count // 5)
        scans, self.digits, held = load_scans()
        self._scans = [Image.fromarray(scan) for scan in scans]
        self._pools = {out: np.flatnonzero(held == out) for out in (False, True)}
        self._photographs = [Image.fromarray(load_sample_image(name)) for name in PHOTOGRAPHS]
        self._kept: dict[int, Scene] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes draw their own."""
        return Scenes, (self.count, self.size, self.seed)

    def is_held_out(self, row: int) -> bool:
        """Whether a scene is not to be trained on."""
        return row >= self.trained_on

    def place(self, row: int) -> list[Placed]:
        """The digits of a scene; at least one, and none on another."""
        rng = np.random.default_rng((self.seed, row))
        pool, placed = self._pools[self.is_held_out(row)], list[Placed]()
        for _ in range(int(rng.integers(1, MOST + 1))):
            scan = int(rng.choice(pool))
            for _ in range(TRIES):
                side = round(self.size * rng.uniform(*SIDES))
                left, top = rng.integers(0, self.size - side + 1, 2).tolist()
                digit = Placed(scan, left, top, side)
                if not any(digit.touches(other) for other in placed):
                    placed.append(digit)
                    break
        return placed

    def image(self, row: int) -> Image.Image:
        """The picture of a scene."""
        return self.draw(row).image

    def mask(self, row: int) -> Array:
        """Which digit each pixel is of: codes of ``CLASSES``, (h, w)."""
        return self.draw(row).mask

    def distance(self, row: int) -> Array:
        """How far each pixel is from a digit, in pixels, (h, w)."""
        return self.draw(row).distance

    def draw(self, row: int) -> Scene:
        """A scene, which is kept where there is memory for it."""
        scene = self._kept.get(row)
        if scene is None:
            scene = self._draw(row)
            if (len(self._kept) + 1) * self.size**2 * 8 <= KEPT:
                self._kept[row] = scene
        return scene

    def _draw(self, row: int) -> Scene:
        from scipy.ndimage import distance_transform_edt

        rng = np.random.default_rng((self.seed, row, 1))
        pixels = np.asarray(self._crop(rng, self.is_held_out(row))).astype(np.float32)
        mask = np.zeros((self.size, self.size), np.uint8)
        for digit in self.place(row):
            rows, columns = (slice(at, at + digit.side) for at in (digit.top, digit.left))
            scan = self._scans[digit.scan].resize((digit.side, digit.side), Image.Resampling.BICUBIC)
            ink = np.asarray(scan).astype(np.float32)[..., None] / 255
            under = pixels[rows, columns]
            under += OPACITY * ink * (_draw_colour(rng, float(under.mean())) - under)
            mask[rows, columns][ink[..., 0] > 0.5] = self.digits[digit.scan] + 1
        image = Image.fromarray(np.rint(pixels).astype(np.uint8))
        return Scene(image, mask, distance_transform_edt(mask == 0).astype(np.float32))

    def _crop(self, rng: np.random.Generator, held_out: bool) -> Image.Image:
        """A part of a photograph, from the left of it to train on and from the right otherwise."""
        photograph = self._photographs[rng.integers(len(self._photographs))]
        width, height = photograph.size
        start, end = ((TRAINED_ON + GAP) * width, width) if held_out else (0, TRAINED_ON * width)
        side = rng.uniform(0.3, 1) * min(end - start, height)
        left, top = rng.uniform(start, end - side), rng.uniform(0, height - side)
        # What is outside the part is not averaged in, so that no pixel is seen from the other side.
        part = photograph.crop((round(left), round(top), round(left + side), round(top + side)))
        part = part.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def _draw_colour(rng: np.random.Generator, under: float) -> Array:
    """A colour that is light on what is dark, and dark on what is light."""
    low, high = (150, 255) if under < 128 else (0, 90)
    return rng.uniform(low, high, 3).astype(np.float32)
