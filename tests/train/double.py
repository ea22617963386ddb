"""Training in float64, where rounding cannot be taken for a difference between one process and several."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classy_vision.train import TrainConfig, train
from classy_vision.train import run as loop


@contextmanager
def in_float64() -> Iterator[None]:
    """Makes models, images and what is computed in float32 on purpose float64."""
    run_views = loop.run_views

    def run_double(model: Any, views: Tensor, tasks: Any) -> dict[str, Tensor]:
        return run_views(model, views.double() if views.is_floating_point() else views, tasks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run_views", run_double)
        patch.setattr(Tensor, "float", Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    with in_float64():
        train(TrainConfig.parse(json.loads(Path(sys.argv[1]).read_text())), sys.argv[2])
