"""Files of tensors: safetensors, and torch files read without unpickling code."""

from __future__ import annotations

import math
import pickle
import re
import tarfile
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from classy_vision.atomic import replacing
from classy_vision.config import count_nested
from classy_vision.errors import ConfigError

MAX_RATIO = 10
"""By which an archive of arrays may be compressed; weights can hardly be compressed at all."""
MAX_REPEATED = 1_000_000
"""Entries of containers that stand in several places."""
MAX_TENSORS = 20_000
"""Tensors in a file: of a model, its averages and its optimizer's."""
MAX_NAME = 1000
"""Characters of a tensor's name."""
MAX_REASON = 160
"""Characters of a reader's message that are passed on; it may quote the file."""


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Reads a ``.safetensors`` or ``.npz`` file, or a torch file of tensors and plain values only.

    Nothing in the file is trusted: no code runs, and no memory is taken that the file does not
    fill. Tensors of ``.safetensors`` and torch's own files are mapped, not read: pages come in when
    they are used, and what is written to them stays in memory.

    Raises:
        ConfigError: the file is missing, damaged, or a pickle that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"no such weights file: {str(path)!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickles of other makers
            data = _read(path)
        _check(data)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"refused to read {str(path)!r}: it holds more than tensors and plain values, and "
            f"reading it could run code ({_find_culprit(str(error))}). Convert it where you trust it, with "
            f"safetensors or torch.save of a plain state dict"
        ) from None
    except Exception as error:  # readers of damaged files raise anything
        raise ConfigError(f"{str(path)!r} is damaged or not a file of weights: {_cut_reason(error)}") from None
    return dict(data)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors" or _is_safetensors(path):
        with safe_open(path, "pt") as file:
            _check_names(file.keys())
        return load_file(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    mapped = zipfile.is_zipfile(path)
    if mapped:
        _check_stored(path)
    elif tarfile.is_tarfile(path):
        raise ValueError("it is a tar archive, as torch wrote them before 0.1.10")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _check_names(names: Collection[str]) -> None:
    """Raises if there are more tensors than in any checkpoint, before they are read."""
    if len(names) > MAX_TENSORS:
        raise ValueError(f"it has {len(names):,} parts, and no checkpoint has more than {MAX_TENSORS:,}")
    if (longest := max(map(len, names), default=0)) > MAX_NAME:
        raise ValueError(f"it has a name of {longest:,} characters, and {MAX_NAME:,} are the most")


def _is_safetensors(path: Path) -> bool:
    """Tells whether the file begins with the length of a JSON object, and the object."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _check_stored(path: Path) -> None:
    """Torch stores tensors as they are; a file that unpacks to more than it holds is not one of them."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    _check_names([part.filename for part in parts])
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError("its parts are compressed, which torch.save does not do")
    if sum(part.file_size for part in parts) > path.stat().st_size:
        raise ValueError("its parts are larger than the file")


def _read_npz(path: Path) -> dict[str, Any]:
    """An archive of numpy arrays, as Google's vision transformers are; "/" in names becomes "."."""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        _check_names([part.filename for part in parts])
        unpacked = sum(part.file_size for part in parts)
        if unpacked > MAX_RATIO * path.stat().st_size:
            raise ValueError(f"it would unpack to {unpacked:,} bytes")
        return {
            part.filename.removesuffix(".npy").replace("/", "."): _read_array(archive, part) for part in parts
        }


def _read_array(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> Tensor:
    """One array, whose own header must promise no more than there is."""
    with archive.open(part) as file:
        version = np.lib.format.read_magic(file)
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"{part.filename!r} holds Python objects, not numbers")
        if math.prod(shape) * dtype.itemsize > part.file_size:
            raise ValueError(f"{part.filename!r} is shorter than its shape {shape} says")
    with archive.open(part) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _check(data: Any) -> None:
    """Raises a ValueError unless ``data`` maps names to what is whole and in memory."""
    if not isinstance(data, Mapping):
        raise ValueError(f"it holds a {type(data).__name__}, not a checkpoint")
    names = [key for key in data if not isinstance(key, str)]
    if names:
        raise ValueError(f"{names[0]!r} stands where the name of a tensor should")
    counted = count_nested(data, visit=_check_tensor)
    if counted is None:
        raise ValueError("it holds itself, or is nested too deeply")
    if counted[1] > MAX_REPEATED:
        raise ValueError("it says the same thing over and over")


def _check_tensor(tensor: Any) -> None:
    """Raises a ValueError for a tensor that is not plain and whole; anything else may be."""
    if not isinstance(tensor, Tensor):
        return
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        kind = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else str(tensor.layout)
        raise ValueError(f"it holds a {kind} tensor; plain ones are needed")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has fewer numbers than that")


def _cut_reason(error: Exception) -> str:
    """The first sentence of what a reader says; its advice to read unsafely is not passed on."""
    text = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
    text = re.split(r"(?<=\w)\. |\x1b", text)[0].rstrip(".")
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def _find_culprit(message: str) -> str:
    """Finds what torch's reader refused; its advice to read unsafely is not passed on."""
    found = re.search(r"(?:GLOBAL|[Uu]nsupported class)\s+([A-Za-z_][\w.]*)", message)
    return f"it names {found[1]}" if found else "torch.save did not write it"


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
