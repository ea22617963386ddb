"""Quantised models: integers where there are kernels, what the model says, and no loss unsaid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from classy_vision.config import ConfigError
from classy_vision.export import FORMATS, Int8, export
from classy_vision.export.exported_program import trace
from classy_vision.export.formats import Request
from classy_vision.export.int8 import quantize_program
from classy_vision.export.metadata import Metadata
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
CASES = [
    pytest.param(format, kind, marks=pytest.mark.slow if format == "aoti" or kind == "clips" else [])
    for format in ("onnx", "aoti")
    for kind in MODELS
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
    assert done.model.metadata.precision == "int8"
    for head, wanted in seen[0].items():
        assert 1e-5 < off(seen[1][head], wanted) < 0.1  # it is quantised, and no more than that
    if format == "onnx":
        assert b"QuantizeLinear" in path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_too_much_loss(tmp_path: Path) -> None:
    int8 = calibrated({"early": 90.0, "late": 88.9}, [])
    with pytest.raises(
        ConfigError, match=r"head 'late' falls from 90.00 to 88.90 in int8, by more than 1 points"
    ):
        export(build("mlp"), tmp_path / "m.onnx", format="onnx", example=batch(), int8=int8)
    assert list(tmp_path.iterdir()) == []


# -- which operators are of integers


def quantized(model: nn.Module, images: Tensor, free: bool = False) -> fx.GraphModule:
    """What AOTInductor is given."""
    shape = (None, *images.shape[1:-2], *((None, None) if free else images.shape[-2:]))
    metadata = Metadata(format="aoti", input_shape=shape, max_batch=8, outputs=("output",), heads={})
    request = Request(model.eval(), images, metadata, [images])
    graph = quantize_program(trace(request), request).module()
    assert isinstance(graph, fx.GraphModule)
    return graph


def called(graph: fx.GraphModule, name: str) -> list[fx.Node]:
    return [node for node in graph.graph.nodes if str(node.target).startswith(name)]


class Residual(nn.Module):
    """A stem, a block with a shortcut, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv3d(3, 8, 3, 2, 1), nn.BatchNorm3d(8), nn.ReLU(inplace=True))
        self.block = nn.Sequential(nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1)), nn.ReLU(), nn.Conv3d(8, 8, 1))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv3d(8, 4, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.block(x))


@pytest.mark.parametrize("free", [False, True])
def test_clips(free: bool) -> None:
    model, images = Residual().eval(), clips(3)
    graph = quantized(model, images, free)
    convs = called(graph, "onednn.qconv_pointwise")
    assert called(graph, "aten.conv3d") == called(graph, "aten.relu_") == []
    assert [conv.args[13] for conv in convs] == [torch.uint8, torch.uint8, torch.uint8, torch.float32]
    assert convs[2].args[0] is convs[1]  # its ReLU is no step of its own
    steps = called(graph, "quantized_decomposed.quantize_per_tensor")
    assert len(steps) == 2  # the images, and the sum
    with torch.no_grad():
        assert 1e-5 < off(graph(images), model(images)) < 0.1


class Kinds(nn.Module):
    """Convolutions for which there are kernels of integers, and others."""

    def __init__(self, conv: type[nn.Conv2d | nn.Conv3d]) -> None:
        super().__init__()
        self.whole, self.fours = conv(3, 16, 1), conv(16, 16, 1, groups=4)
        self.twos, self.each, self.grey = conv(16, 16, 1, groups=8), conv(16, 16, 1, groups=16), conv(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.each(self.twos(self.fours(self.whole(x)))) * self.grey(x[:, :1]).mean(1, keepdim=True)


@pytest.mark.parametrize(("conv", "inputs", "kept"), [(nn.Conv2d, batch, 2), (nn.Conv3d, clips, 3)])
def test_where_there_is_no_kernel(conv: type[nn.Conv2d | nn.Conv3d], inputs: Inputs, kept: int) -> None:
    """Groups of two and grey images stay in float32, and in 3-D a group for each channel."""
    graph = quantized(Kinds(conv), inputs(2, 0))
    convs = called(graph, "aten.conv")
    in_float32 = [node for node in convs if "dequantize" not in str(node.args[0])]
    assert len(in_float32) == kept


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


@pytest.mark.parametrize("format", ["onnx", pytest.param("aoti", marks=pytest.mark.slow)])
def test_nothing_saturates(format: str, tmp_path: Path) -> None:
    path, seen = tmp_path / f"model{FORMATS[format].suffix}", []
    int8 = calibrated({"output": 90.0}, seen, bright)
    export(Large(), path, format=format, example=bright(), int8=int8)
    assert off(seen[1]["output"], seen[0]["output"]) < 0.01


def test_weights_have_seven_bits(tmp_path: Path) -> None:
    """On every machine, since a file made on one is run on others."""
    import onnx

    export(Large(), tmp_path / "m.onnx", format="onnx", example=bright(), int8=calibrated({}, [], bright))
    stored = [onnx.numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer]
    assert max(abs(a.astype(int)).max() for a in stored if a.ndim == 4) == 64
    for model, images in ((Large(), bright()), (Residual(), clips())):
        values = quantized(model, images).state_dict().values()
        weights = [value for value in values if value.dtype == torch.int8]
        assert weights
        assert {int(value.abs().max()) for value in weights} <= {63, 64}


class Deep(nn.Module):
    """Its first layer gives more for images that are bright in all channels than for others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(32, 32, 1, bias=False), nn.Conv3d(32, 16, 1, bias=False)
        nn.init.constant_(self.first.weight, 1 / 32)
        nn.init.constant_(self.second.weight, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).mean((2, 3, 4))


def test_what_is_beyond_the_ranges_is_cut_off() -> None:
    every = 0.9 + 0.1 * torch.rand(2, 32, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    half = every.clone()
    half[:, ::2] = 1 - half[:, ::2]
    model = Deep().eval()
    with torch.no_grad():
        most = model.first(half).max().item()
        wanted = model.second(model.first(every).clamp(0, most)).mean((2, 3, 4))
        assert off(quantized(model, half)(every), wanted) < 0.01
