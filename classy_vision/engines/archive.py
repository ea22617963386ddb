"""Archives of a description and the files of engines, which are read in place: nothing is unpacked."""

from __future__ import annotations

import mmap
import shutil
import struct
import zipfile
import zlib
from pathlib import Path

MAX_ABOUT = CHUNK = 1 << 20
ALIGNMENT = 64
"""Files begin at multiples of so many bytes, because engines compute on the weights where they lie."""
_LOCAL, _SIZES = 30, struct.Struct("<HH")
"""The bytes of a local header before the name, which end with the sizes of the name and of the extra field."""
_PADDING = 0xD935
"""The kind of extra field that aligns a file, as in Android's packages."""


def map_file(path: Path) -> memoryview:
    """Returns what is in a file, mapped into memory; writing to it does not change the file."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def write_archive(path: Path, name: str, about: str, folder: Path) -> None:
    """Writes the text ``about`` under ``name``, and the files of a folder under their own names."""
    with path.open("wb") as target, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(name, about)
        for file in sorted(folder.iterdir()):
            info = zipfile.ZipInfo.from_file(file, file.name)
            padding = -(target.tell() + _LOCAL + len(file.name) + _SIZES.size) % ALIGNMENT
            info.extra = _SIZES.pack(_PADDING, padding) + bytes(padding)
            with file.open("rb") as source, archive.open(info, "w") as member:
                shutil.copyfileobj(source, member, CHUNK)


def map_archive(path: Path, name: str) -> tuple[bytes, dict[str, memoryview]]:
    """Returns what stands under ``name``, and the other files, mapped into memory.

    They can be written to, which changes no file.

    Raises:
        BadZipFile: the archive is damaged.
        KeyError: nothing stands under ``name``.
    """
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(name).file_size > MAX_ABOUT:
            raise zipfile.BadZipFile(f"{name} is too large")
        mapped = map_file(path)
        others = (info for info in archive.infolist() if info.filename != name)
        return archive.read(name), {info.filename: _find(mapped, info) for info in others}


def _find(mapped: memoryview, info: zipfile.ZipInfo) -> memoryview:
    start = info.header_offset + _LOCAL
    start += sum(_SIZES.unpack_from(mapped, start - _SIZES.size))
    found = mapped[start : start + info.file_size]
    if info.compress_type != zipfile.ZIP_STORED or zlib.crc32(found) != info.CRC:
        raise zipfile.BadZipFile(f"{info.filename} is not what was written")
    return found if start % ALIGNMENT == 0 else memoryview(bytearray(found))
