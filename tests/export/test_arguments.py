"""What ``export`` is asked for is held against the model, and a file takes what its model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.engines import optimize
from classy_vision.export import Head, Int8, export, load_exported
from classy_vision.export.exported_program import trace
from classy_vision.export.formats import Request
from classy_vision.heads import FullyConnectedHead, IdentityHead
from classy_vision.models import build_model
from tests.models.small import batch, build


class Small(nn.Module):
    """A network of one's own, and what is done with its numbers."""

    def __init__(self, then: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.fc, self.then = nn.Conv2d(3, 4, 1), nn.Linear(4, 5), then or nn.Identity()

    def forward(self, x: Tensor) -> Any:
        return self.then(self.fc(self.conv(x).mean((2, 3))))


EXAMPLE = torch.randn(2, 3, 8, 8)
REFUSED: dict[str, tuple[Mapping[str, Any], str]] = {
    "a format": ({"format": "onxx"}, "did you mean 'onnx'"),
    "an ending": ({"format": "onnx"}, "ends in .onnx"),
    "a batch": ({"max_batch": 1}, "max_batch = 1"),
    "no tolerance": ({"tolerance": 0.0}, "tolerance = 0.0: give a number above 0"),
    "tolerance that is no number": ({"tolerance": math.nan}, "tolerance = nan"),
    "a head": ({"heads": {"lat": Head()}}, "unknown head 'lat'; did you mean 'late'"),
    "an example": ({"example": torch.ones(2, 3, 32, 32, dtype=torch.int64)}, "a float32 batch is needed"),
    "int8": ({"int8": Int8([], lambda run: {})}, "exported-program files cannot hold int8 models"),
    "a type": ({"dtype": "bfloat61"}, "unknown dtype 'bfloat61'; did you mean 'bfloat16'"),
    "another type": ({"dtype": torch.float64}, r"dtype 'float64'.*\(allowed: float32, bfloat16, float16\)"),
    "two types": (
        {"format": "aoti", "int8": Int8([], lambda run: {}), "dtype": "bfloat16"},
        "int8 and dtype = 'bfloat16'",
    ),
    "fewer classes": (
        {"heads": {"late": Head(classes=("a", "b"))}},
        r"'late' has outputs \(3, 3\), but 2 classes are named",
    ),
    "a typo": ({"preprocessing": {"image_szie": 24}}, "'image_szie'; did you mean 'image_size'"),
    "another size": (
        {"preprocessing": {"image_size": 24}},
        r"preprocessing makes an input .*24, 24\): .* takes \(n, 3, 32, 32\)",
    ),
    "channels": ({"example": torch.ones(2, 4, 32, 32)}, r"does not take inputs \(3, 4, 32, 32\): "),
    "no tensor": ({"example": np.ones((2, 3, 32, 32), np.float32)}, "as a tensor, not ndarray"),
    "half a batch": ({"max_batch": 4.5}, "max_batch = 4.5"),
    "a word": ({"tolerance": "1e-4"}, "tolerance = '1e-4': give a number"),
    "no calibration": ({"format": "aoti", "int8": Int8([], lambda run: {})}, "calibration is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_work(case: str, tmp_path: Path) -> None:
    options, said = REFUSED[case]
    with pytest.raises(ConfigError, match=said):
        export(build("resnet"), tmp_path / "model.pt2", **{"example": batch(), **options})
    assert list(tmp_path.iterdir()) == []


def test_features_are_no_classes(tmp_path: Path) -> None:
    model = build_model("resnet18", heads=[])
    model.set_heads({"block1": [IdentityHead("map")]})
    with pytest.raises(ConfigError, match=r"'map' has outputs \(3, .*: classification needs \(n, classes\)"):
        export(model, tmp_path / "m.pt2", example=batch(), heads={"map": Head(kind="classification")})


def test_optimized_models_are_refused(tmp_path: Path) -> None:
    fast: Any = optimize(build("resnet"), batch(), engine="plain")
    with pytest.raises(ConfigError, match="export the model that it was made of"):
        export(fast, tmp_path / "model.pt2", example=batch())
    assert list(tmp_path.iterdir()) == []


def test_no_module(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="export takes a module of torch, not str"):
        export("resnet18", tmp_path / "m.pt2")  # type: ignore[arg-type]


class Masked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill(x < 0, -math.inf).clamp(max=math.inf).softmax(1)


class Positive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x > 0


class Numbered(nn.Module):
    """Outputs by numbers, not names."""

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        return {0: x, 1: 2 * x}


class Exact(nn.Module):
    """In a context that exporters write as an operator of its own."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return x * 2


class Buffered(nn.Module):
    """With a buffer that is in no state dict."""

    k: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("k", torch.full((1,), 3.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.k


@pytest.mark.parametrize("then", [Masked(), Positive(), Numbered(), Buffered()])
def test_networks_of_ones_own(then: nn.Module, tmp_path: Path) -> None:
    model = Small(then).eval()
    export(model, tmp_path / "m.pt2", example=EXAMPLE)
    wanted = model(EXAMPLE)
    given = load_exported(tmp_path / "m.pt2", trust=True)(EXAMPLE)
    for output, other in zip(given.values(), wanted.values() if isinstance(wanted, dict) else [wanted]):
        torch.testing.assert_close(output, other, check_dtype=False)


def test_what_takes_trust_says_so(tmp_path: Path) -> None:
    done = export(Small(Exact()), tmp_path / "m.pt2", example=EXAMPLE)
    assert done.needs_trust
    with pytest.raises(ConfigError, match="trust=True") as caught:
        load_exported(tmp_path / "m.pt2")
    assert len(str(caught.value)) < 400
    output = load_exported(tmp_path / "m.pt2", trust=True)(EXAMPLE.numpy())["output"]
    assert isinstance(output, np.ndarray)


def test_files_do_not_know_our_paths() -> None:
    program = trace(Request(Small(Exact()).eval(), EXAMPLE, _metadata()))
    parts = [part for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    assert len(parts) > 1
    assert not any("stack_trace" in node.meta for part in parts for node in part.graph.nodes)


def _metadata() -> Any:
    from classy_vision.export.metadata import Metadata

    shape = (None, *EXAMPLE.shape[1:])
    return Metadata(
        format="exported-program", input_shape=shape, max_batch=4, outputs=("o",), heads={"o": Head()}
    )


@pytest.mark.parametrize("format", ["exported-program", "onnx"])
def test_whatever_holds_numbers_is_taken(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"m.{'onnx' if format == 'onnx' else 'pt2'}"
    export(Small(), path, format=format, example=EXAMPLE)
    run = load_exported(path, trust=True)
    wanted = run(EXAMPLE)["output"]
    sealed = EXAMPLE.numpy().copy()
    sealed.flags.writeable = False
    for given in (EXAMPLE.clone().requires_grad_(), EXAMPLE.double(), sealed, sealed.astype(">f4")):
        torch.testing.assert_close(torch.as_tensor(run(given)["output"]), wanted)
    torch.testing.assert_close(run(EXAMPLE.bfloat16())["output"], wanted, rtol=0.1, atol=0.1)


def test_a_head_may_be_called_as_a_value_within(tmp_path: Path) -> None:
    model = build_model("resnet18", heads=[])
    model.set_heads({"block1": [FullyConnectedHead("relu", 3)], "block0": [FullyConnectedHead("mean", 2)]})
    export(model, tmp_path / "m.onnx", format="onnx", example=batch())
    given, wanted = load_exported(tmp_path / "m.onnx")(batch()), model.eval()(batch())
    assert list(given) == list(wanted)
    for head, output in wanted.items():
        torch.testing.assert_close(given[head], output, rtol=1e-4, atol=1e-5)


def test_links_to_what_is_gone_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match="exists: --force"):
        export(Small(), tmp_path / "m.pt2", example=EXAMPLE)


@pytest.mark.slow
def test_any_size_takes_a_large_example(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without the dynamic size, or give a larger example"):
        export(
            build_model("densenet121"), tmp_path / "m.pt2", example=torch.randn(2, 3, 40, 40), dynamic_size=True
        )
    assert list(tmp_path.iterdir()) == []


def test_no_such_home() -> None:
    with pytest.raises(ConfigError, match="there is no folder '~nobody-of-that-name'"):
        export(Small(), "~nobody-of-that-name/m.pt2", example=EXAMPLE)
