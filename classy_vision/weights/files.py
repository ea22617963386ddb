"""Files of tensors: safetensors, and torch files read without unpickling code.

A file is written beside its place and renamed, so that a crash leaves the old one.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from classy_vision.config import ConfigError

WEIGHTS = "model.safetensors"
MAX_RATIO = 100
"""By which an archive of arrays may be compressed; weights hardly are at all."""


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Reads a ``.safetensors`` or ``.npz`` file, or a torch file of tensors and plain values only.

    Tensors of the first and the last kind are mapped, not read: pages come in when they are used.

    Raises:
        ConfigError: the file is missing, damaged, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no such weights file: {str(path)!r}")
    try:
        if path.suffix == ".safetensors" or _is_safetensors(path):
            return dict(load_file(path))
        if path.suffix == ".npz":
            return _read_npz(path)
        mapped = zipfile.is_zipfile(path)
        if mapped:
            _check_stored(path)
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        reason = _culprit(str(error))
        raise ConfigError(
            f"refused to read {str(path)!r}: it holds more than tensors and plain values, and "
            f"reading it could run code ({reason}). Convert it where you trust it, with "
            f"safetensors or torch.save of a plain state dict"
        ) from None
    except (
        SafetensorError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        OSError,
        zipfile.BadZipFile,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{str(path)!r} is damaged or no weights file: {reason}") from None
    if not isinstance(data, Mapping):
        raise ConfigError(f"{str(path)!r} holds a {type(data).__name__}, not a checkpoint")
    return dict(data)


def _check_stored(path: Path) -> None:
    """Torch stores tensors as they are; what unpacks to more than the file holds is no such file."""
    with zipfile.ZipFile(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("its parts are compressed, which torch.save does not do")


def _read_npz(path: Path) -> dict[str, Any]:
    """An archive of numpy arrays, as Google's vision transformers are; "/" in names becomes "."."""
    with np.load(path, allow_pickle=False) as archive:
        unpacked = sum(info.file_size for info in archive.zip.infolist())
        if unpacked > MAX_RATIO * path.stat().st_size:
            raise ValueError(f"it would unpack to {unpacked:,} bytes")
        return {name.replace("/", "."): torch.from_numpy(archive[name]) for name in archive.files}


def _is_safetensors(path: Path) -> bool:
    """Whether the file begins as one does: the length of a JSON object, and the object."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _culprit(message: str) -> str:
    """What torch's reader stumbled over; its advice to read unsafely is not passed on."""
    found = re.search(r"(?:GLOBAL|Unsupported (?:class|operand|global)):?\s+([\w.]+)", message)
    return f"it names {found[1]}" if found else "it is no file of torch.save"


def write_tensors(path: str | Path, state: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a ``.safetensors`` file with ``metadata`` in its header, or an ``.npz`` file."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    with replacing(path) as beside:
        if Path(path).suffix == ".npz":
            with beside.open("wb") as file:
                arrays: dict[str, Any] = {
                    key.replace(".", "/"): value.numpy() for key, value in tensors.items()
                }
                np.savez(file, **arrays)
        else:
            save_file(tensors, beside, metadata)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a path beside ``path`` to write to, and puts it in place when all went well."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        beside.chmod(0o666 & ~_umask())  # some writers make private files
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
