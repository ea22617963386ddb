"""Memory does not grow with the number of files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.embed.conftest import write_image

CODE = """
import json, resource, sys
from classy_vision.embed import embed
model, source, output = sys.argv[1:]
found = embed(model, source, output, blocks=["block1"], batch_size=64, device="cpu")
print(json.dumps([found.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def measure(model: Path, folder: Path, count: int) -> int:
    """The most memory of a process that embeds ``count`` copies of an image, in kilobytes."""
    image = write_image(folder / "image.png", 0).read_bytes()
    for n in range(count):
        place = folder / "images" / f"{n // 1000:04}"
        if n % 1000 == 0:
            place.mkdir(parents=True)
        (place / f"{n:06}.png").write_bytes(image)
    words = [sys.executable, "-c", CODE, str(model), str(folder / "images"), str(folder / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    rows, most = json.loads(done.stdout)
    assert rows == count
    return int(most)


@pytest.mark.slow
def test_a_hundred_thousand_files_take_the_memory_of_ten_thousand(model: Path, tmp_path: Path) -> None:
    few, many = measure(model, tmp_path / "few", 10_000), measure(model, tmp_path / "many", 100_000)
    assert many < few + 30_000, (few, many)
