"""Every format holds every family with two heads, says what the model says, and refuses the rest."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classy_vision.config import ConfigError
from classy_vision.export import FORMATS, Head, export, load_exported
from classy_vision.models import build_model
from tests.models.small import CLIPS, FAMILIES, batch, build

FIXED = ("mlp", "vision_transformer", "clips")  # their operators depend on the size of the image
QUICK = {
    "exported-program": set(FAMILIES),
    "onnx": {"regnet", "vision_transformer"},
    "openvino": {"regnet", "vision_transformer"},
    "aoti": set(),
    "safetensors": set(FAMILIES),
}
needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed")
MARKS = {"openvino": [needs_openvino]}
CASES = [
    pytest.param(
        format, family, marks=[*MARKS.get(format, ()), *([] if family in QUICK[format] else [pytest.mark.slow])]
    )
    for format in FORMATS
    for family in FAMILIES
]
MEANING = {
    "late": Head(kind="classification", classes=("a", "b", "c")),
    "early": Head(kind="multilabel", classes=("x", "y", "z")),
}
SEEN = {"image_size": 32, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}


def file(folder: Path, format: str) -> Path:
    return folder / f"model{FORMATS[format].suffix}"


def agree(given: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    assert given.keys() == wanted.keys()
    for head, output in wanted.items():
        torch.testing.assert_close(torch.as_tensor(given[head]), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("format", "family"), CASES)
def test_every_format_holds_every_family(format: str, family: str, tmp_path: Path) -> None:
    model = build(family)
    path, free = file(tmp_path, format), family not in FIXED
    seen = {**SEEN, "clip": {"frames": 4}} if family in CLIPS else SEEN
    done = export(
        model,
        path,
        format=format,
        example=None if family in CLIPS else batch(2),
        dynamic_size=free,
        heads=MEANING,
        preprocessing=seen,
    )
    assert done.difference is not None
    assert done.difference < 1e-4
    assert len(done.shapes) == (5 if free else 3)
    assert done.needs_trust == path.name.endswith(".pt2")
    assert model.training  # as it was
    exported = load_exported(path, trust=True)
    assert exported.heads == ("late", "early")
    assert exported.labels == {"late": ("a", "b", "c"), "early": ("x", "y", "z")}
    assert exported.preprocessing == seen
    assert exported.metadata.format == format
    names = [path.name, *(path.with_suffix(suffix).name for suffix in FORMATS[format].beside)]
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(names)
    shape = [3 if size is None else size for size in exported.metadata.input_shape]
    images = torch.randn(*shape[:-2], *([48, 40] if free else [32, 32]))
    with torch.no_grad():
        wanted = model.eval()(images)
    agree(exported(images), wanted)
    arrays = exported(images.numpy())
    assert all(isinstance(output, np.ndarray) for output in arrays.values())
    agree(arrays, wanted)


@pytest.mark.parametrize("format", ["exported-program", "safetensors"])
def test_models_without_several_heads(format: str, tmp_path: Path) -> None:
    model = build("resnet")
    model.clear_heads()
    export(model, file(tmp_path, format), format=format, example=batch(2))
    exported = load_exported(file(tmp_path, format), trust=True)
    assert exported.heads == ("trunk_output",)
    with torch.no_grad():
        agree(exported(batch()), {"trunk_output": model.eval()(batch())})


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def test_a_module_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.pt2"
    exported = export(Doubled(), path, example=torch.ones(1, 4), heads={"twice": Head()}).model
    assert exported(np.ones((7, 4), np.float32))["twice"].tolist() == [[2.0] * 4] * 7
    assert exported.metadata.model is None
    with pytest.raises(ConfigError, match="has no config to write"):
        export(Doubled(), tmp_path / "own.safetensors", format="safetensors", example=torch.ones(1, 4))
    with pytest.raises(ConfigError, match="give an example"):
        export(Doubled(), tmp_path / "none.pt2")


def test_files_name_no_folders_of_ours(tmp_path: Path) -> None:
    export(build("densenet"), tmp_path / "model.pt2", example=batch())
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        assert not any(
            str(Path(__file__).parents[2]).encode() in archive.read(name) for name in archive.namelist()
        )


# -- bfloat16


class Mixed(nn.Module):
    """Names a type in its arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).mean((2, 3)).float())


def test_what_does_not_run_in_bfloat16_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the model does not run in bfloat16: RuntimeError"):
        export(Mixed(), tmp_path / "m.pt2", example=batch(), dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"the model is in float64: call model.float\(\) first"):
        export(build("regnet").double(), tmp_path / "m.pt2", example=batch())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["regnet", "vision_transformer"])
@pytest.mark.parametrize(
    "format", ["exported-program", "safetensors", pytest.param("aoti", marks=pytest.mark.slow)]
)
def test_bfloat16(format: str, family: str, tmp_path: Path) -> None:
    model, path = build(family), file(tmp_path, format)
    done = export(model, path, format=format, example=batch(), dtype="bfloat16")
    assert done.difference is not None
    assert 1e-5 < done.difference < 2e-2  # it is rounded, and no more than that
    exported = load_exported(path, trust=True)
    assert exported.metadata.precision == "bfloat16"
    with torch.no_grad():
        wanted = model.eval()(batch(5))
    for given in (exported(batch(5)), exported(batch(5).numpy())):
        for head, output in wanted.items():
            assert torch.as_tensor(given[head]).dtype == torch.float32
            torch.testing.assert_close(
                torch.as_tensor(given[head]), output, rtol=0, atol=2e-2 * output.abs().max()
            )
    with pytest.raises(ConfigError, match="tolerance = 1e-06: nothing was written"):
        export(model, path, format=format, example=batch(), dtype=torch.bfloat16, tolerance=1e-6, force=True)
    assert load_exported(path, trust=True).metadata.precision == "bfloat16"


@needs_openvino
@pytest.mark.parametrize(("dtype", "bound"), [("float16", 1e-2), ("bfloat16", 2e-2)])
def test_openvino_files_in_16_bits(dtype: str, bound: float, tmp_path: Path) -> None:
    """Weights are halved in float16; arithmetic is in 16 bits where the processor has it."""
    model = nn.Linear(256, 1024)
    done = export(model, tmp_path / "m.xml", format="openvino", example=torch.ones(2, 256), dtype=dtype)
    assert done.difference is not None
    assert done.difference < bound
    assert (tmp_path / "m.bin").stat().st_size < {"float16": 2.2, "bfloat16": 4.2}[dtype] * 256 * 1024
    assert all(output.dtype == torch.float32 for output in done.model(torch.ones(3, 256)).values())


def test_bfloat16_halves_files(tmp_path: Path) -> None:
    own, config = (
        nn.Linear(256, 1024),
        {"name": "mlp", "input_dim": 256, "output_dim": 4, "hidden_dims": [1024]},
    )
    for model, format in ((own, "exported-program"), (build_model(config), "safetensors")):
        path = file(tmp_path, format)
        done = export(model, path, format=format, example=torch.ones(2, 256), dtype="bfloat16")
        assert 2 < path.stat().st_size / (256 * 1024) < 2.2
        assert all(output.dtype == torch.float32 for output in done.model(torch.ones(3, 256)).values())


# -- refusals


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        export(build("resnet"), path, example=batch())
    assert path.read_text() == "mine"
    export(build("resnet"), path, example=batch(), force=True)
    assert load_exported(path, trust=True).heads == ("early", "late")
    with pytest.raises(ConfigError, match="there is no folder"):
        export(build("resnet"), tmp_path / "none" / "model.pt2", example=batch())


class Rounded(nn.Module):
    """What an exporter would get wrong: it says something else each time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(())


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


@pytest.mark.parametrize(
    ("module", "format", "said"),
    [
        (Rounded(), "exported-program", "differs from the model by .* tolerance = 0.0001: nothing was written"),
        (Branching(), "exported-program", "cannot export as exported-program: .*data-dependent"),
        (Bessel(), "onnx", "cannot export as onnx: .*bessel_j0"),
    ],
)
def test_what_cannot_be_exported(module: nn.Module, format: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        export(module, file(tmp_path, format), format=format, example=torch.ones(2, 4))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_vision_transformers_have_one_size(tmp_path: Path) -> None:
    model = build("vision_transformer")
    with pytest.raises(ConfigError, match="cannot be exported for any image size"):
        export(model, tmp_path / "model.pt2", example=batch(), dynamic_size=True)
    assert list(tmp_path.iterdir()) == []
    larger = torch.randn(2, 3, 48, 32)  # positions are interpolated
    exported = export(model, tmp_path / "model.pt2", example=larger).model
    with torch.no_grad():
        agree(exported(larger), model.eval()(larger))
    with pytest.raises(ConfigError, match=r"takes \(n, 3, 48, 32\), n from 1 to 64"):
        exported(batch())


# -- without torch


def test_onnx_runs_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export(build("mlp"), path, format="onnx", example=batch(), heads=MEANING)
    code = (
        "import sys, numpy as np\n"
        "from classy_vision.export import load_exported\n"
        f"exported = load_exported({str(path)!r})\n"
        "said = exported(np.ones((5, 3, 32, 32), np.float32))\n"
        "print({head: numbers.shape for head, numbers in said.items()}, exported.labels['late'])\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "{'early': (5, 3), 'late': (5, 3)} ('a', 'b', 'c')\n", done.stderr


def test_onnx_says_its_names(tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "m.onnx"
    export(build("regnet"), path, format="onnx", example=batch(), dynamic_size=True)
    graph = onnx.load(path).graph
    sizes = [size.dim_param or size.dim_value for size in graph.input[0].type.tensor_type.shape.dim]
    assert [entry.name for entry in graph.input] == ["images"]
    assert sizes == ["batch", 3, "height", "width"]
    assert [entry.name for entry in graph.output] == ["early", "late"]
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
