"""Archives that are read in place."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from classy_vision.engines.archive import ALIGNMENT, map_archive, write_archive

FILES = {"a.bin": b"weights" * 1000, "graph.xml": b"<net/>", "empty": b""}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    write_archive(tmp_path / "archive", "about.json", "{}", folder)
    return tmp_path / "archive"


def test_files_are_aligned_and_can_be_written_to(archive: Path) -> None:
    about, files = map_archive(archive, "about.json")
    assert about == b"{}"
    assert {name: bytes(file) for name, file in files.items()} == FILES
    array = np.frombuffer(files["a.bin"], np.uint8)
    assert array.ctypes.data % ALIGNMENT == 0
    before = archive.read_bytes()
    array[0] = 0
    assert archive.read_bytes() == before
    with zipfile.ZipFile(archive) as other:  # which any tool reads
        assert other.testzip() is None
        assert set(other.namelist()) == {"about.json", *FILES}


def test_files_that_are_not_aligned_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "archive"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("about.json", "{}")
        archive.writestr("a.bin", FILES["a.bin"])
    _, files = map_archive(path, "about.json")
    assert bytes(files["a.bin"]) == FILES["a.bin"]
    assert np.frombuffer(files["a.bin"], np.uint8).flags.writeable


def test_a_byte_that_changed_is_seen(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[data.index(b"weights") + 500] ^= 1
    archive.write_bytes(data)
    with pytest.raises(zipfile.BadZipFile, match=r"^a\.bin is not what was written$"):
        map_archive(archive, "about.json")


def test_compressed_files_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("about.json", "{}")
        archive.writestr("a.bin", FILES["a.bin"])
    with pytest.raises(zipfile.BadZipFile, match=r"a\.bin"):
        map_archive(tmp_path / "archive", "about.json")


def test_a_description_of_any_length_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("about.json", b" " * (2 << 20))
    with pytest.raises(zipfile.BadZipFile, match=r"about\.json is too large"):
        map_archive(tmp_path / "archive", "about.json")
