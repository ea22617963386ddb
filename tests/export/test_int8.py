"""Quantised models: integers where there are kernels, what the model says, and no loss unsaid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.export import FORMATS, Int8, export
from tests.models.small import batch, build

Inputs = Callable[[int, int], Tensor]


def clips(size: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(size, 3, 4, 32, 32, generator=torch.Generator().manual_seed(seed))


def grey(size: int = 2, seed: int = 1) -> Tensor:
    return batch(size, seed)[:, :1]


def small_grey() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers)


MODELS: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "images": (lambda: build("resnet"), batch),
    "grey images": (small_grey, grey),
    "clips": (lambda: build("resnext3d"), clips),
}
needs_nncf = pytest.mark.skipif(not find_spec("nncf"), reason="NNCF is not installed")
MARKS = {"onnx": [], "openvino": [needs_nncf, pytest.mark.slow], "aoti": [pytest.mark.slow]}
CASES = [
    pytest.param(format, kind, marks=MARKS[format] if kind != "clips" else [*MARKS[format], pytest.mark.slow])
    for format in MARKS
    for kind in MODELS
    if (format, kind) != ("aoti", "clips")  # torchao knows no 3-D convolutions
]


def calibrated(scores: Mapping[str, float], seen: list[Mapping[str, Tensor]], inputs: Inputs = batch) -> Int8:
    """Scores 90 points for the model, and ``scores`` for what is made of it."""

    def measure(run: Any) -> Mapping[str, float]:
        seen.append(run(inputs(8, 1)))
        return dict.fromkeys(scores, 90.0) if len(seen) == 1 else scores

    return Int8([inputs(8, seed) for seed in range(4)], measure)


def off(given: Tensor, wanted: Tensor) -> float:
    return ((given - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize(("format", "kind"), CASES)
def test_int8(format: str, kind: str, tmp_path: Path) -> None:
    make, inputs = MODELS[kind]
    path, seen = tmp_path / f"model{FORMATS[format].suffix}", []
    scores = {"output": 89.5} if kind == "grey images" else {"early": 91.0, "late": 89.5}
    int8 = calibrated(scores, seen, inputs)
    done = export(make(), path, format=format, example=inputs(2, 0), int8=int8)
    assert done.after == scores
    assert len(seen) == 2  # the model is measured once, and so is the file that keeps its scores
    assert done.model.metadata.precision == "int8"
    for head, wanted in seen[0].items():
        assert 1e-5 < off(seen[-1][head], wanted) < 0.1  # it is quantised, and no more than that
    if format == "onnx":
        assert b"QuantizeLinear" in path.read_bytes()
    names = [path.name, *(path.with_suffix(suffix).name for suffix in FORMATS[format].beside)]
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(names)


def test_too_much_loss(tmp_path: Path) -> None:
    int8 = calibrated({"early": 90.0, "late": 88.9}, [])
    with pytest.raises(
        ConfigError, match=r"head 'late' falls from 90.00 to 88.90 in int8, by more than 1 points"
    ):
        export(build("mlp"), tmp_path / "m.onnx", format="onnx", example=batch(), int8=int8)
    assert list(tmp_path.iterdir()) == []


@needs_nncf
@pytest.mark.slow
def test_vision_transformers_keep_their_outputs(tmp_path: Path) -> None:
    seen: list[Mapping[str, Tensor]] = []
    int8 = calibrated({"early": 90.0, "late": 90.0}, seen)
    export(build("vision_transformer"), tmp_path / "m.xml", format="openvino", example=batch(), int8=int8)
    assert all(off(seen[-1][head], wanted) < 0.2 for head, wanted in seen[0].items())


@needs_nncf
@pytest.mark.slow
def test_layers_stay_in_float_until_no_head_loses_too_much(tmp_path: Path) -> None:
    model, x = build("resnet").eval(), batch(8, 1)
    with torch.no_grad():
        wanted = model(x)

    def measure(run: Any) -> Mapping[str, float]:
        """Points that fall with the difference from the model."""
        given = run(x)
        return {head: 90 - 100 * off(given[head], wanted[head]) for head in wanted}

    def quantised(max_loss: float) -> int:
        path = tmp_path / f"m{max_loss}.xml"
        int8 = Int8([batch(8, seed) for seed in range(4)], measure, max_loss)
        done = export(model, path, format="openvino", example=batch(), int8=int8)
        assert min(done.after.values()) >= 90 - max_loss
        return path.read_text().count("FakeQuantize")

    assert 0 <= quantised(0.2) < quantised(50.0)


# -- sums of two products fit into 16 bits, where processors without VNNI add them


class Large(nn.Module):
    """All weights, and nearly all inputs, are as large as they get."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 16, 3, bias=False)
        nn.init.constant_(self.conv.weight, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


def bright(size: int = 2, seed: int = 1) -> Tensor:
    return 0.9 + 0.1 * torch.rand(size, 32, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("format", [pytest.param(format, marks=marks) for format, marks in MARKS.items()])
def test_nothing_saturates(format: str, tmp_path: Path) -> None:
    path, seen = tmp_path / f"model{FORMATS[format].suffix}", []
    int8 = calibrated({"output": 90.0}, seen, bright)
    export(Large(), path, format=format, example=bright(), int8=int8)
    assert off(seen[-1]["output"], seen[0]["output"]) < 0.01


def test_weights_have_seven_bits(tmp_path: Path) -> None:
    """On every machine, since a file made on one is run on others."""
    import onnx

    export(Large(), tmp_path / "m.onnx", format="onnx", example=bright(), int8=calibrated({}, [], bright))
    stored = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer]
    assert max(abs(a.astype(int)).max() for a in stored if a.ndim == 4) == 64
