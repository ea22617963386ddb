"""Files that are damaged, another tool's, or made to do harm."""

from __future__ import annotations

import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classy_vision.config import ConfigError
from classy_vision.export import export, load_exported
from classy_vision.export.metadata import KEY, Metadata, parse_metadata
from classy_vision.models import build_model
from classy_vision.weights.files import write_tensors
from tests.models.small import batch, build

SMALL_TRUNK = {"name": "resnet", "num_blocks": [1], "init_planes": 8}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    export(build("vision_transformer"), path, example=batch())
    return path


def changed(
    source: Path, target: Path, change: Callable[[str, bytes], bytes], compress: int = zipfile.ZIP_STORED
) -> Path:
    """A copy of an archive, its parts changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compress) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return target


def edit(ending: str, edits: Callable[[Any], object]) -> Callable[[str, bytes], bytes]:
    """Changes the JSON of one part."""

    def change(name: str, data: bytes) -> bytes:
        if not name.endswith(ending):
            return data
        value = json.loads(data)
        edits(value)
        return json.dumps(value).encode()

    return change


def nodes(model: Any) -> Any:
    return model["graph_module"]["graph"]["nodes"]


def test_a_copy_is_read(program: Path, tmp_path: Path) -> None:
    copy = changed(program, tmp_path / "m.pt2", lambda name, data: data)
    wanted, given = load_exported(program, trust=True)(batch()), load_exported(copy, trust=True)(batch())
    assert all(torch.equal(given[head], wanted[head]) for head in wanted)


def test_an_exported_program_needs_trust(program: Path, tmp_path: Path) -> None:
    """Operators that take and give tensors can read memory that is not theirs."""

    def edits(model: Any) -> None:
        nodes(model)[0]["target"] = "torch.ops.aten._reshape_alias.default"

    path = changed(program, tmp_path / "m.pt2", edit("models/model.json", edits))
    for file in (program, path):
        with pytest.raises(ConfigError, match="unpickles and runs what it names: pass trust=True, or --trust"):
            load_exported(file)


class Harm:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_nothing_is_unpickled_without_trust(program: Path, tmp_path: Path) -> None:
    harm = pickle.dumps(Harm(tmp_path / "harm"))
    path = changed(program, tmp_path / "m.pt2", lambda name, data: harm if name.endswith(".pt") else data)
    with pytest.raises(ConfigError, match="unpickles"):
        load_exported(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_half_a_file(part: float, program: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    path.write_bytes(program.read_bytes()[: int(part * program.stat().st_size)])
    with pytest.raises(ConfigError, match="damaged|no metadata"):  # a part of it is an archive itself
        load_exported(path, trust=True)


def test_programs_of_others(program: Path, tmp_path: Path) -> None:
    torch.export.save(torch.export.load(program), tmp_path / "torch.pt2")
    with pytest.raises(ConfigError, match="no metadata of classy export"):
        load_exported(tmp_path / "torch.pt2", trust=True)


def test_programs_for_another_torch(program: Path, tmp_path: Path) -> None:
    def edits(model: Any) -> None:
        model["schema_version"]["major"] = 99

    path = changed(program, tmp_path / "m.pt2", edit("models/model.json", edits))
    with pytest.raises(ConfigError, match="damaged or for another version of torch"):
        load_exported(path, trust=True)


def test_machine_code_needs_trust(tmp_path: Path) -> None:
    metadata = Metadata(format="aoti", input_shape=(None, 4), max_batch=8, outputs=("a",), heads={"a": {}})
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        text = json.dumps({KEY: metadata.dump()})
        archive.writestr("m/data/aotinductor/model/x.wrapper_metadata.json", text)
        archive.writestr("m/data/aotinductor/model/x.wrapper.so", b"\x7fELF")
    with pytest.raises(ConfigError, match="runs the machine code in it: pass trust=True"):
        load_exported(path)
    with pytest.raises(ConfigError, match="damaged or for another machine"):
        load_exported(path, trust=True)


@pytest.mark.parametrize("name", ["m.onnx", "m.pt2", "m.safetensors"])
def test_other_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        load_exported(tmp_path / name)
    for data in (b"", b"nothing of the kind" * 9):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConfigError, match="damaged"):
            load_exported(tmp_path / name)


def test_an_ending_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.onx").write_text("")
    with pytest.raises(ConfigError, match="did you mean '.onnx'"):
        load_exported(tmp_path / "m.onx")


def onnx_model() -> Any:
    """A weight of four numbers added to the input, with the metadata of an export."""
    from onnx import TensorProto, helper

    images, output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("images", "a")
    )
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 4], np.ones(4, np.float32))
    add = helper.make_node("Add", ["images", "w"], ["a"])
    graph = helper.make_graph([add], "graph", [images], [output], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    metadata = Metadata(format="onnx", input_shape=(None, 4), max_batch=8, outputs=("a",), heads={"a": {}})
    helper.set_model_props(model, {KEY: metadata.dump()})
    return model


def test_onnx_files_of_others(tmp_path: Path) -> None:
    model = onnx_model()
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert load_exported(tmp_path / "m.onnx")(np.ones((1, 4), np.float32))["a"].tolist() == [[2] * 4]
    del model.metadata_props[:]
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ConfigError, match="no metadata of classy export"):
        load_exported(tmp_path / "m.onnx")


def outside(tensor: Any) -> None:
    """Moves the numbers of a tensor of ONNX to another file."""
    tensor.ClearField("float_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="secret")


def test_onnx_files_hold_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx import TensorProto, helper

    monkeypatch.chdir(tmp_path)  # where ONNX Runtime would look for it
    (tmp_path / "secret").write_bytes(np.full(4, 7, np.float32).tobytes())
    as_weight, as_constant, in_branch = onnx_model(), onnx_model(), onnx_model()
    outside(as_weight.graph.initializer[0])
    for model in (as_constant, in_branch):
        constant = helper.make_node("Constant", [], ["w"], value=model.graph.initializer[0])
        outside(constant.attribute[0].t)
        del model.graph.initializer[:]
        if model is in_branch:
            model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
            branch = helper.make_graph([constant], "branch", [], [helper.make_empty_tensor_value_info("w")])
            constant = helper.make_node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch)
        model.graph.node.insert(0, constant)
    for model in (as_weight, as_constant, in_branch):
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ConfigError, match="weights in other files: save it as one file"):
            load_exported(tmp_path / "m.onnx")


def test_weights_whose_config_is_a_trap(tmp_path: Path) -> None:
    config = {"name": "resnet", "num_blocks": [10**6, 1, 1], "init_planes": 8}
    metadata = Metadata(
        format="safetensors",
        input_shape=(None, 3, 8, 8),
        max_batch=8,
        outputs=("a",),
        heads={"a": {}},
        model=config,
    )
    write_tensors(tmp_path / "m.safetensors", {"x": torch.ones(1)}, {KEY: metadata.dump()})
    with pytest.raises(ConfigError, match="beyond 200,000"):
        load_exported(tmp_path / "m.safetensors")
    write_tensors(tmp_path / "m.safetensors", {"x": torch.ones(1)}, {"format": "pt"})
    with pytest.raises(ConfigError, match="no metadata"):
        load_exported(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no metadata"),
        ("[1]", "damaged"),
        ("{", "damaged"),
        ('{"heads": 3}', "damaged"),
        ('{"heads": {"a": {"kind": "magic"}}}', "damaged"),
        (
            '{"heads": {}, "outputs": ["a"], "format": "onnx", "input_shape": [null, 4], "max_batch": 2}',
            "not the heads",
        ),
        ('{"heads": {}, "outputs": [], "input_shape": [null, 4], "max_batch": 2}', "'format' is required"),
    ],
)
def test_metadata_of_others(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_metadata(text, "file")


WHOLE = {"heads": {"a": {}}, "outputs": ["a"], "format": "onnx", "input_shape": [None, 3, 8, 8], "max_batch": 2}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"heads": {f"h{i}": {} for i in range(100_000)}},
            "100,000 heads|100,000 values",
        ),
        ({"heads": {"a": {"classes": ["cat", "dog", "cat"]}}}, "'cat' is listed twice"),
        ({"input_shape": []}, r"input_shape = \[\]"),
        ({"input_shape": [None]}, r"input_shape = \[None\]"),
        ({"input_shape": [None, 3, 0, 8]}, "sizes are from 1 to"),
        ({"input_shape": [None, 3, -1, 8]}, "sizes are from 1 to"),
        ({"input_shape": [None, 3, 30_000, 30_000]}, "an input has at most"),
        ({"input_shape": [None, 3, 2**70, 8]}, "more than 64 bits"),
        ({"max_batch": 10**5000}, "damaged"),
    ],
)
def test_metadata_that_no_model_has(change: dict[str, Any], said: str) -> None:
    sys.set_int_max_str_digits(0)
    try:
        text = json.dumps({**WHOLE, **change})
    finally:
        sys.set_int_max_str_digits(4300)
    assert parse_metadata(json.dumps(WHOLE), "file")
    with pytest.raises(ConfigError, match=said) as error:
        parse_metadata(text, "file")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("depth", [70, 666, 100_000])
def test_metadata_that_is_nested_too_deeply(depth: int) -> None:
    text = json.dumps({**WHOLE, "model": "here"}).replace('"here"', '{"a": ' * depth + "1" + "}" * depth)
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_metadata(text, "file")


@pytest.mark.parametrize(
    "preprocessing",
    [
        {"image_size": 30_000},
        {"image_size": 8, "resize": 30_000},
        {"image_size": 224, "clip": {"frames": 10**6}},
        {"image_size": 224, "clip": {"frames": 8, "clips": 10**6}},
    ],
)
def test_preprocessing_that_takes_all_memory(preprocessing: dict[str, Any], tmp_path: Path) -> None:
    from classy_vision.predict import Predictor

    shape = (None, 3, *([None] if "clip" in preprocessing else []), None, None)
    model = {**SMALL_TRUNK, "num_classes": 2}
    metadata = Metadata(
        format="safetensors",
        input_shape=shape,
        max_batch=8,
        outputs=("default_head",),
        heads={"default_head": {"kind": "regression"}},
        preprocessing={"mean": [0.5] * 3, "std": [0.5] * 3, **preprocessing},
        model=model,
    )
    path = tmp_path / "m.safetensors"
    write_tensors(path, build_model(model).state_dict(), {KEY: metadata.dump()})
    with pytest.raises(ConfigError, match="its preprocessing makes"):
        Predictor.load(path)


@pytest.mark.parametrize(
    "shape", [(65, 3, 32, 32), (0, 3, 32, 32), (3, 32, 32), (1, 1, 32, 32), (1, 3, 32, 40)]
)
def test_inputs_it_was_not_made_for(shape: tuple[int, ...], program: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes \(n, 3, 32, 32\), n from 1 to 64"):
        load_exported(program, trust=True)(torch.zeros(*shape))


# -- OpenVINO's files


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("openvino")
    path = tmp_path_factory.mktemp("graph") / "model.xml"
    export(build("mlp"), path, format="openvino", example=batch())
    return path


def copied(graph: Path, folder: Path) -> Path:
    for part in (graph, graph.with_suffix(".bin")):
        (folder / part.name).write_bytes(part.read_bytes())
    return folder / graph.name


def test_openvino_files_are_two(graph: Path, tmp_path: Path) -> None:
    path = copied(graph, tmp_path)
    assert load_exported(path)(batch().numpy()).keys() == {"early", "late"}
    with pytest.raises(ConfigError, match=r"exists: --force"):
        export(build("mlp"), path, format="openvino", example=batch())
    path.unlink()
    with pytest.raises(ConfigError, match=r"model.bin exists: --force"):
        export(build("mlp"), path, format="openvino", example=batch())
    copied(graph, tmp_path).with_suffix(".bin").unlink()
    with pytest.raises(ConfigError, match="has no weights: 'model.bin' is missing beside it"):
        load_exported(path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_parts_of_openvino_files(suffix: str, part: float, graph: Path, tmp_path: Path) -> None:
    path = copied(graph, tmp_path)
    cut = path.with_suffix(suffix)
    cut.write_bytes(cut.read_bytes()[: int(part * cut.stat().st_size)])
    with pytest.raises(ConfigError, match="damaged|has no metadata"):
        load_exported(path)


def test_weights_of_another_model(graph: Path, tmp_path: Path) -> None:
    path = copied(graph, tmp_path)
    weights = path.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[::-1])
    with pytest.raises(ConfigError, match="the weights beside it are not its own"):
        load_exported(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('type="ReLU" version="opset1"', 'type="Harm" version="extension"', "Cannot create Harm layer"),
        ('type="ReLU" version="opset1"', 'type="Harm" version="opset1"', "damaged or not a file of OpenVINO"),
        ('offset="32"', 'offset="99999999"', "damaged or not a file of OpenVINO"),
        ('offset="32"', 'offset="18446744073709551600"', "damaged or not a file of OpenVINO"),
        ('shape="8, 3072"', 'shape="8, 307200"', "damaged or not a file of OpenVINO"),
        ("classy_vision value", "another value", "has no metadata of classy export"),
    ],
)
def test_harmful_openvino_files(old: str, new: str, said: str, graph: Path, tmp_path: Path) -> None:
    path = copied(graph, tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=said):
        load_exported(path)


def test_paths_in_openvino_files_are_not_followed(graph: Path, tmp_path: Path) -> None:
    path = copied(graph, tmp_path)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    text = path.read_text()
    assert str(Path(__file__).parents[2]) not in text
    entity = f'<!DOCTYPE net [<!ENTITY x SYSTEM "file://{secret}">]>'
    path.write_text(text.replace("<net ", f"{entity}<net ", 1).replace('name="images"', 'name="&x;"', 1))
    try:
        outputs = load_exported(path)(batch().numpy())
    except ConfigError:
        return
    assert outputs.keys() == {"early", "late"}
    assert "secret" not in repr(load_exported(path))
