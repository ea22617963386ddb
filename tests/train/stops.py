"""Runs that are ended at a moment of the test's choice, and what is left of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from classy_vision.train import TrainConfig, train
from classy_vision.train import run as loop

TIMES = ("seconds", "images_per_second")


def train_and_stop(settings: TrainConfig, output: Path, batches: int) -> None:
    """Trains until SIGTERM comes with a batch, counted over training and evaluation, or none is left."""
    run_views, calls = loop.run_views, [0]

    def terminate(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == batches:
            signal.raise_signal(signal.SIGTERM)
        return run_views(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run_views", terminate)
        with pytest.raises(SystemExit, match="143"):
            train(settings, output)


def read_history(run: Path) -> list[dict[str, float]]:
    rows = json.loads((run / "metrics.json").read_text())["epochs"]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def assert_same_runs(run: Path, other: Path) -> None:
    """To the last bit."""
    one, two = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert read_history(run) == read_history(other)
