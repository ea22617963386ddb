"""ONNX files: torch writes them, and ONNX Runtime runs them without torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from classy_vision.config import ConfigError, first_line
from classy_vision.export.formats import Loaded, Request
from classy_vision.export.metadata import INPUT, KEY, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

MAX_BYTES = 2**31 - 2**20
"""The limit for weights: a protobuf message is shorter than 2 GB."""
AXES = {4: ("batch", None, "height", "width"), 5: ("batch", None, "time", "height", "width")}
"""The names of free sizes."""


def save(request: Request, path: Path) -> None:
    """Writes the model with its metadata, and checks the file.

    Raises:
        ConfigError: a package is missing, the weights are too large for one file, the model
            cannot be traced, or has an operator that ONNX lacks.
    """
    _check_packages("onnx", "onnxscript", "onnxruntime")
    import onnx

    if sum(t.nbytes for t in request.model.state_dict().values()) > MAX_BYTES:
        raise ConfigError("weights of more than 2 GB do not fit into an ONNX file: choose another format")
    model = _translate(request)
    if request.calibration is not None:
        from classy_vision.export.int8 import quantize_onnx

        model = quantize_onnx(model, request, path)
    _name_sizes(model, request)
    onnx.helper.set_model_props(model, {KEY: request.metadata.dump()})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def load(path: Path, trust: bool) -> Loaded:
    """Opens a session on the CPU.

    Raises:
        ConfigError: ONNX Runtime is missing, or the file is damaged or from another tool.
    """
    _check_packages("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would print, it also raises
    try:
        data = path.read_bytes()
        if has_external_data(data):  # ONNX Runtime would look for them in the working directory
            raise ConfigError(f"{str(path)!r} keeps weights in other files: save it as one file")
        session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
    except ConfigError:
        raise
    except Exception as error:  # of many kinds, which only the library defines
        raise ConfigError(f"{str(path)!r} is damaged or not an ONNX file: {first_line(error)}") from None
    metadata = parse_metadata(text, str(path))
    outputs = [output.name for output in session.get_outputs()]
    if [entry.name for entry in session.get_inputs()] != [INPUT] or outputs != list(metadata.outputs):
        raise ConfigError(f"{str(path)!r} is damaged: its inputs and outputs are not those of its metadata")

    def run(images: np.ndarray[Any, Any]) -> Sequence[Any]:
        found: Sequence[Any] = session.run(None, {INPUT: images})
        return found

    return Loaded(metadata, run, "numpy")


TENSOR, SPARSE = "tensor", "sparse tensor"
MESSAGES: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: TENSOR, 15: SPARSE},
    "node": {5: "attribute"},
    "attribute": {5: TENSOR, 6: "graph", 10: TENSOR, 11: "graph", 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    TENSOR: {},
}
"""The parts of ONNX messages that hold tensors, by the numbers of their fields in ``onnx.proto``."""
EXTERNAL_DATA, DATA_LOCATION = 13, 14
"""The fields of a tensor whose values are in another file."""


def has_external_data(data: bytes) -> bool:
    """Whether a tensor of an ONNX file has its values in another file.

    Weights are skipped, so no copy of them is made.

    Raises:
        ValueError: it is not a protobuf message.
    """
    parts = [("model", memoryview(data))]
    while parts:
        kind, message = parts.pop()
        for field, value in _iterate_fields(message):
            if kind == TENSOR and (field == EXTERNAL_DATA or (field == DATA_LOCATION and value == 1)):
                return True
            if field in MESSAGES[kind] and isinstance(value, memoryview):
                parts.append((MESSAGES[kind][field], value))
    return False


def _iterate_fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields the number and value of each field."""
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        wire, number = tag & 7, 0
        if wire in (0, 2):
            number, at = _read_varint(message, at)
        size = {0: 0, 1: 8, 2: number, 5: 4}.get(wire)
        if size is None or at + size > len(message):
            raise ValueError("it is not a protobuf message")
        yield tag >> 3, message[at : at + size] if wire == 2 else number
        at += size


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """Reads a number, and returns it with the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(message):
            break
        value |= (message[at] & 0x7F) << shift
        at += 1
        if message[at - 1] < 0x80:
            return value, at
    raise ValueError("it is not a protobuf message")


def _translate(request: Request) -> Any:
    """Converts the model to ONNX."""
    import torch

    from classy_vision.export.exported_program import trace

    heads = list(request.metadata.outputs)
    if INPUT in heads:
        raise ConfigError(
            f"a head is called {INPUT!r}, which is the name of the input in ONNX files: rename the head"
        )
    outputs = [
        f"classy_vision.head.{i}" for i in range(len(heads))
    ]  # a head may have the name of an inner value
    with _quiet(), torch.no_grad():
        written = torch.onnx.export(
            trace(request), (), dynamo=True, input_names=[INPUT], output_names=outputs, verbose=False
        )
    assert written is not None
    model = written.model_proto
    _rename(model.graph, {**{head: f"{head}.inner" for head in heads}, **dict(zip(outputs, heads))})
    return model


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    """Renames values wherever they are written or read."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    for entry in (*graph.initializer, *graph.value_info, *graph.output):
        entry.name = names.get(entry.name, entry.name)


def _name_sizes(model: Any, request: Request) -> None:
    """Names the free sizes "batch", "height" and "width", which torch only numbers."""
    (images,) = model.graph.input
    sizes = images.type.tensor_type.shape.dim
    names = AXES.get(len(sizes), ("batch",))
    new = {size.dim_param: name for size, name in zip(sizes, names) if size.dim_param and name}
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = new.get(size.dim_param, size.dim_param)
    del model.graph.value_info[:]  # in terms of the old symbols; readers infer them again
    for node in model.graph.node:
        del node.metadata_props[:]  # names and lines of our code
    del model.graph.metadata_props[:]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter on packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check_packages(*names: str) -> None:
    if missing := [name for name in names if find_spec(name) is None]:
        raise ConfigError(f"ONNX files need {missing[0]}: pip install 'classy-vision-models[export]'")
