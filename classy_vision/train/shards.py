"""Checkpoints in parts: tensors whose rows are in several files, one file per process that wrote them.

The files are safetensors, so that nothing is unpickled, and any number of processes can read them: each reads
the rows that it needs. ``torch.distributed.checkpoint`` pickles its index.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from safetensors import safe_open
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

IN_SHARDS = "in_shards"
"""The only key of what stands in the place of such a tensor."""


class Shards:
    """Files with rows of the same tensors, in the order of the rows. They are mapped, not read.

    Args:
        files: of one checkpoint.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [safe_open(file, "pt") for file in files]

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """The rows of a tensor from ``start`` up to ``stop``; by default all of them."""
        found, first = [], 0
        for file in self._files:
            rows: Any = file.get_slice(name)  # type: ignore[no-untyped-call]  # of safetensors
            count: int = rows.get_shape()[0]
            low, high = max(0, start - first), min(count, count if stop is None else stop - first)
            if low < high:
                found.append(rows[low:high])
            first += count
        if not found:  # more processes than rows
            found = [self._files[0].get_tensor(name)[:0]]  # type: ignore[no-untyped-call]  # as above
        return torch.cat(found)


@dataclass(frozen=True)
class SpreadTensor:
    """A tensor of a checkpoint in parts.

    Attributes:
        shards: where its rows are.
        name: of the tensor there.
    """

    shards: Shards
    name: str

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Its rows from ``start`` up to ``stop``."""
        return self.shards.read(self.name, start, stop)


def is_shared(value: object) -> TypeGuard[DTensor]:
    """Whether this is a tensor of which each process has some rows.

    One that is has imported its class; else nobody waits for that, which takes longer than reading a model.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def split_state(state: Mapping[str, Any], path: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Takes the tensors that processes share out of a checkpoint.

    Returns:
        The checkpoint with a note in the place of each, and the rows of this process by name.
    """
    plain: dict[str, Any] = {}
    rows: dict[str, Tensor] = {}
    for key, value in state.items():
        name = f"{path}{key}"
        if is_shared(value):
            plain[key], rows[name] = {IN_SHARDS: name}, value.to_local()
        elif isinstance(value, Mapping):
            plain[key], more = split_state(value, f"{name}/")
            rows |= more
        else:
            plain[key] = value
    return plain, rows


def join_state(plain: Mapping[str, Any], shards: Shards) -> dict[str, Any]:
    """The checkpoint that was split, with a ``SpreadTensor`` in the place of each note."""
    joined: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            spread = value.keys() == {IN_SHARDS}
            value = SpreadTensor(shards, value[IN_SHARDS]) if spread else join_state(value, shards)
        joined[key] = value
    return joined


def read_whole(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict with all rows of its tensors."""
    return {key: value.read() if isinstance(value, SpreadTensor) else value for key, value in state.items()}


def fit_optimizer(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """The state of an optimizer as its parameters are: whole, or the rows that fall to this process.

    Args:
        state: as any number of processes wrote it.
        parameters: in the order of the optimizer.
    """
    fitted = {
        index: {name: _fit(value, parameters[index]) for name, value in of_one.items()}
        for index, of_one in state["state"].items()
    }
    return {**state, "state": fitted}


def _fit(value: Any, parameter: Tensor) -> Any:
    if not isinstance(value, SpreadTensor) and not (
        isinstance(value, Tensor) and value.shape == parameter.shape
    ):
        return value
    if is_shared(parameter):
        return _take_rows(value, parameter)
    whole = value.read() if isinstance(value, SpreadTensor) else value
    if whole.stride() == parameter.stride():
        return whole
    return torch.empty_like(parameter, dtype=whole.dtype).copy_(whole)  # fused kernels go by places in memory


def _take_rows(value: Tensor | SpreadTensor, like: DTensor) -> DTensor:
    """The rows that fall to this process, as those of ``like`` do."""
    mesh, count = like.device_mesh, like.shape[0]
    each = -(-count // mesh.size())
    start = min(count, each * mesh.get_local_rank())
    stop = min(count, start + each)
    rows = value.read(start, stop) if isinstance(value, SpreadTensor) else value[start:stop]
    rows = rows.contiguous().to(like.device)
    return type(like).from_local(
        rows, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
