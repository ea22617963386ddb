"""Which files a folder stands for."""

from __future__ import annotations

import os
from pathlib import Path

from classy_vision.data.files import walk


def test_links_to_folders_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    for name in ("images/cat/0.png", "elsewhere/1.png", "elsewhere/deep/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    images = tmp_path / "images"
    (images / "dog").symlink_to(tmp_path / "elsewhere")
    (images / "cat" / "up").symlink_to(images)
    (tmp_path / "elsewhere" / "deep" / "self").symlink_to(".")
    (images / "gone").symlink_to(tmp_path / "none")
    found = [os.path.relpath(path, images) for path in walk(images, "image")]
    assert found == ["cat/0.png", "dog/1.png", "dog/deep/2.png"]
