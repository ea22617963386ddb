"""Vectors made with classy_vision 0.7.0 in float64: weights are made anew from their keys."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Vector:
    """One stored case: a config, the input, the outputs."""

    name: str

    @cached_property
    def data(self) -> dict[str, Any]:
        with np.load(FOLDER / f"{self.name}.npz", allow_pickle=False) as file:
            return dict(file)

    def __getitem__(self, key: str) -> Any:
        return json.loads(str(self.data[key]))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The classy state's tensors by the original's keys, heads as ``_heads.<block>.<id>``."""
        gain = float(self.data["gain"])
        weights = {key: _weight(key, shape, gain) for key, shape in self["state_dict"].items()}
        digest = hashlib.sha256()
        for key in sorted(weights):
            if weights[key].dtype == np.float64:
                digest.update(key.encode() + weights[key].astype("<f8").tobytes())
        assert digest.hexdigest() == str(self.data["weights_sha256"])
        return {key: torch.from_numpy(value) for key, value in weights.items()}

    @cached_property
    def classy_state(self) -> dict[str, Any]:
        """The weights as the original's ``get_classy_state`` gives them."""
        trunk = {k: v for k, v in self.weights.items() if not k.startswith("_heads.")}
        heads: dict[str, Any] = {}
        for key in self.weights.keys() - trunk.keys():
            _, block, head, rest = key.split(".", 3)
            heads.setdefault(block, {}).setdefault(head, {})[rest] = self.weights[key]
        return {"model": {"trunk": trunk, "heads": heads}}

    @cached_property
    def input(self) -> Tensor:
        shape = tuple(self.data["input_shape"])
        return torch.from_numpy(np.random.default_rng(int(self.data["input_seed"])).standard_normal(shape))

    @cached_property
    def outputs(self) -> dict[str, Tensor]:
        found = {k[7:]: torch.from_numpy(v) for k, v in self.data.items() if k.startswith("output/")}
        assert found
        return found


def _weight(key: str, shape: list[int], gain: float) -> Any:
    last = key.rsplit(".", 1)[-1]
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if last == "num_batches_tracked":
        return np.zeros((), dtype=np.int64)
    if last == "running_mean" or last.endswith("bias"):
        return 0.1 * noise
    if last == "running_var":
        return 1 + 0.1 * abs(noise)
    if last.endswith("weight") and len(shape) == 1:
        return 1 + 0.1 * noise
    if last.endswith("weight"):
        return noise * (gain * sqrt(1 / prod(shape[1:])))
    return 0.02 * noise


def names(*prefixes: str) -> list[str]:
    """The stored cases whose name begins with one of ``prefixes``."""
    found = sorted(path.stem for path in FOLDER.glob("*.npz") if path.stem.startswith(prefixes))
    assert found
    return found
