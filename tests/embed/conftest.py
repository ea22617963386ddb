"""A small model in a folder, and images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.predict.test_predictor import small_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    small_model().save_pretrained(folder)
    return folder


def write_image(file: Path, seed: int) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (14, 18, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with images in a folder for each class."""

    def make(count: int = 10, name: str = "images", classes: tuple[str, ...] = ("cat", "dog")) -> Path:
        for n in range(count):
            write_image(tmp_path / name / classes[n * len(classes) // count] / f"{n:05}.png", n)
        return tmp_path / name

    return make
